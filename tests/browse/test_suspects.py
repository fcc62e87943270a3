"""Label mistakes of scenes by hand: what runs agree on against the labels."""

import pytest
from scenes import FAR, A, B, matched, record, row

from headway.browse.suspects import Opinion, cost_of, disagreement, find_suspects

CAT, DOG = 0, 1
NEXT = [0, 0, 20, 12]  # IoU 0.6 with A
LOW = [0, 0, 20, 8]  # IoU 0.4 with A


def suspects(truth, *runs, agree=2, threshold=0.3, sure=0.8):
    every = [matched(truth, rows) for rows in runs]
    opinions = {r: Opinion(m, m.above(threshold), sure) for r, m in enumerate(every)}
    return find_suspects(truth, opinions, agree)


def kinds(*arguments, **options):
    return [(s.kind, s.label, s.other, s.truth, s.runs) for s in suspects(*arguments, **options)]


def test_two_runs_agree_on_a_box_that_the_labels_lack():
    found = suspects(record([B], [DOG]), [row(CAT, A, 0.9), row(DOG, B, 0.9)], [row(CAT, NEXT, 0.5), row(DOG, B, 0.4)])
    assert [(s.kind, s.box, s.label, s.runs) for s in found] == [("lacking", (0, 0, 20, 20), CAT, (0, 1))]
    assert found[0].score == pytest.approx(0.7)  # (0.9 + 0.5) / 2


@pytest.mark.parametrize(
    "runs",
    [
        ([row(CAT, A, 0.9)], []),  # one of two
        ([row(CAT, A, 0.9), row(CAT, A, 0.8)], []),  # twice of the same run
        ([row(CAT, A, 0.9)], [row(DOG, A, 0.9)]),  # of two classes
        ([row(CAT, A, 0.9)], [row(CAT, LOW, 0.9)]),  # IoU 0.4
        ([row(CAT, A, 0.9)], [row(CAT, A, 0.2)]),  # below the threshold
    ],
)
def test_these_runs_do_not_agree(runs):
    assert suspects(record(), *runs) == []


def test_a_label_of_any_class_or_a_crowd_is_no_place_for_a_missing_one():
    both = [row(DOG, A, 0.9)], [row(DOG, A, 0.9)]
    assert [kind for kind, *_ in kinds(record([A], [CAT]), *both)] == ["class"]
    assert kinds(record([[0, 0, 50, 50]], [CAT], crowd=[0]), *both) == []
    assert kinds(record([A], [DOG]), *[[row(DOG, A, 0.9), row(DOG, NEXT, 0.8)]] * 2) == []  # a duplicate


def test_no_run_finds_a_label():
    truth = record([A, B], [CAT, DOG])
    assert kinds(truth, [row(CAT, A, 0.9)], []) == [("unfound", DOG, -1, 1, ())]
    assert kinds(truth, [row(CAT, A, 0.9)], [row(DOG, B, 0.9)]) == []
    (found,) = suspects(record([A], [CAT]), [row(CAT, NEXT, 0.25)], [row(DOG, A, 0.28)])
    assert found.score == pytest.approx(0.75)  # the best of its class below the threshold scores 0.25
    assert suspects(record([FAR], [CAT]), [], [])[0].score == 1


def test_runs_say_another_class():
    truth = record([A], [CAT])
    assert kinds(truth, [row(DOG, A, 0.9)], [row(DOG, NEXT, 0.7)]) == [("class", CAT, DOG, 0, (0, 1))]
    assert kinds(truth, [row(DOG, A, 0.9)], [row(CAT, A, 0.4)]) == []  # one of them finds it
    assert kinds(truth, [row(DOG, A, 0.9)], []) == [("unfound", CAT, -1, 0, ())]  # one of two


def test_runs_say_another_place():
    found = suspects(record([A], [CAT]), *[[row(CAT, LOW, 0.9)]] * 2)
    assert [(s.kind, s.box, s.truth) for s in found] == [("place", (0, 0, 20, 8), 0)]
    far = [row(CAT, FAR, 0.9)]
    assert sorted(kind for kind, *_ in kinds(record([A], [CAT]), far, far)) == ["lacking", "unfound"]


def test_one_run_alone_has_to_be_sure():
    assert suspects(record(), [row(CAT, A, 0.7)]) == []
    assert kinds(record(), [row(CAT, A, 0.8)]) == [("lacking", CAT, -1, -1, (0,))]
    assert kinds(record(), [row(CAT, A, 0.8)], [], agree=1) == [("lacking", CAT, -1, -1, (0,))]
    assert suspects(record(), [row(CAT, A, 0.9)], [row(CAT, A, 0.9)], [], agree=3) == []


def test_no_run_looked():
    assert find_suspects(record([A], [CAT]), {}, 2) == []


def test_the_surest_comes_first():
    rows = [row(CAT, B, 0.5), row(DOG, FAR, 0.9)]
    assert [s.score for s in suspects(record([A], [CAT]), rows, rows)] == pytest.approx([1.0, 0.9, 0.5])


def test_cost_and_disagreement():
    truth = record([A, B], [CAT, DOG])
    one = matched(truth, [row(CAT, A, 0.9), row(CAT, FAR, 0.4)])
    other = matched(truth, [row(CAT, NEXT, 0.8), row(DOG, B, 0.5)])
    assert cost_of(one) == pytest.approx(1.4)  # B is missed, FAR is wrong
    assert cost_of(other) == 0
    assert disagreement([one, other]) == pytest.approx(0.9)  # FAR 0.4 and B 0.5
    third = matched(truth, [])
    assert disagreement([one, other, third]) == pytest.approx((0.9 + 1.3 + 1.3) / 3)
    assert disagreement([one]) == 0
