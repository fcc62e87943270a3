"""The contract of the HTTP interface, in process, with an engine whose answers are known."""

import asyncio
from io import BytesIO

import numpy as np
import pytest
from fake import DETECT, POISON, FakeEngine, call, client_of, closed, error_of, picture, post, until
from PIL import Image

from headway.serve import bodies
from headway.serve.bodies import RefusedError, split_form


def noise() -> bytes:
    """A JPEG that needs all of its bytes."""
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------- answers
def test_a_picture_as_the_body():
    answer = post(picture(204, 1)).json()
    assert set(answer.pop("ms")) == {"read", "queue", "network"}
    score = float(np.float32(204 / 255))  # every bit of it
    assert answer == {
        "model": "fake.onnx", "width": 12, "height": 8,
        "detections": [{"box": [0, 0, 12, 8], "score": score, "label": 1, "name": "dog"}],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_what_clients_call_a_picture(kind):
    assert post(picture(), headers={"Content-Type": kind} if kind else {}).status_code == 200


def test_a_form_with_several_pictures_of_which_one_is_broken_and_one_poisons_its_batch():
    files = [
        ("images", ("a.png", picture(204))), ("images", ("../../etc/b.png", b"nothing")),
        ("photo", ("c.png", picture(102, 1))), ("images", ("empty.png", b"")), ("images", ("p.png", picture(*POISON))),
    ]  # fmt: skip
    answer = post(None, files=files).json()["pictures"]
    assert [row["file"] for row in answer] == ["a.png", "b.png", "c.png", "empty.png", "p.png"]
    assert [row.get("status", 200) for row in answer] == [200, 415, 200, 400, 500]
    assert [row["detections"][0]["name"] for row in answer if "detections" in row] == ["cat", "dog"]
    assert "image b.png is not a picture" in answer[1]["error"]
    assert "data set" not in answer[1]["error"]


def test_options_are_those_of_predict():
    files = [("images", ("a.png", picture(204, 0))), ("images", ("b.png", picture(102, 1)))]
    counts = {}
    for query in ("threshold=0.5", "classes=dog", "classes=dog&classes=cat", "threshold=1"):
        rows = post(None, f"{DETECT}?{query}", files=files).json()["pictures"]
        counts[query] = [len(row["detections"]) for row in rows]
    assert counts == {
        "threshold=0.5": [1, 0], "classes=dog": [0, 1], "classes=dog&classes=cat": [1, 1], "threshold=1": [0, 0]
    }  # fmt: skip


def test_coco_rows_have_the_categories_and_the_ids_of_files():
    files = [("images", ("0012.png", picture(204, 1))), ("images", ("cat.png", picture(51)))]
    assert post(None, f"{DETECT}?format=coco", files=files).json() == [
        {"image_id": 12, "category_id": 18, "bbox": [0, 0, 12, 8], "score": 0.8}
        | {"file_name": "0012.png", "category_name": "dog"},
        {"image_id": "cat", "category_id": 17, "bbox": [0, 0, 12, 8], "score": 0.2}
        | {"file_name": "cat.png", "category_name": "cat"},
    ]  # fmt: skip
    assert post(picture(), f"{DETECT}?format=coco").json()[0]["image_id"] == 0


def test_a_drawn_picture():
    answer = post(picture(204, size=(60, 40)), f"{DETECT}?format=jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    drawn = np.asarray(Image.open(BytesIO(answer.content)))
    assert drawn.shape == (40, 60, 3)
    assert np.abs(drawn[20, 30].astype(int) - (204, 0, 0)).max() < 12
    assert drawn[20, 0, 2] > 30  # the frame, blue and blurred by JPEG
    assert error_of(
        post(None, f"{DETECT}?format=jpeg", files=[("a", ("a.png", picture())), ("b", ("b.png", picture()))])
    )


def test_the_model_and_the_state():
    model, health, ready, metrics = call(
        *[("GET", path, {}) for path in ("/v1/model", "/healthz", "/readyz", "/metrics")]
    )
    assert model.json()["classes"] == [
        {"label": 0, "name": "cat", "category_id": 17}, {"label": 1, "name": "dog", "category_id": 18}
    ]  # fmt: skip
    assert {k: model.json()[k] for k in ("name", "kind", "threshold", "best_threshold", "views", "max_pixels")} == {
        "name": "fake.onnx", "kind": "exported", "threshold": 0.05, "best_threshold": 0.4, "views": [],
        "max_pixels": 50_000_000,
    }  # fmt: skip
    assert health.json() == ready.json() == {"status": "ok"}
    assert 'headway_model_info{kind="exported",name="fake.onnx"' in metrics.text


def test_readiness_waits_for_the_first_pass():
    async def main():
        engine = FakeEngine()
        with closed(engine):
            async with client_of(engine, ready=False) as client:
                early = await client.get("/readyz")
                assert (early.status_code, early.headers["retry-after"]) == (503, "1")
                assert (await client.get("/healthz")).status_code == 200
                engine.gate.set()
                await until(client, "headway_ready 1.0")
                assert (await client.get("/readyz")).status_code == 200

    asyncio.run(main())


# -------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("body", "path", "status", "said"),
    [
        (b"", DETECT, 400, "the body is empty"),
        (b"GIF89a but not really", DETECT, 415, "is not a picture, or its header is damaged"),
        (noise()[:2000], DETECT, 422, "is truncated or damaged"),
        (picture(size=(400, 300)), DETECT, 413, "has 400x300 pixels, more than the limit of 100,000"),
        (bytes(2**20 + 1), DETECT, 413, "a body may have 1,048,576 bytes, got 1,048,577 bytes"),
        (picture(), f"{DETECT}?threshold=2", 422, "threshold must be less than or equal to 1, got '2'"),
        (picture(), f"{DETECT}?threshold=nan", 422, "threshold must be finite number, got 'nan'"),
        (picture(), f"{DETECT}?thres=0.2", 422, "there is no option 'thres'; did you mean threshold"),
        (picture(), f"{DETECT}?classes=dogs", 422, "there is no class 'dogs'; did you mean dog?"),
        (picture(), f"{DETECT}?format=xml", 422, "format must be 'json', 'jpeg' or 'coco', got 'xml'"),
        (picture(), f"{DETECT}?max_detections=0", 422, "max_detections must be greater than or equal to 1, got '0'"),
        (picture(), "/v1/views/gates", 404, "fake.onnx has no view 'gates': an exported file has none"),
        (picture(), "/v1/nothing", 404, "there is no '/v1/nothing' here"),
        (picture(), "/v1/model", 405, "POST is not for '/v1/model'"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_status(body, path, status, said):
    answer = post(body, path, settings={"max_mib": 1, "max_pixels": 100_000})
    assert said in error_of(answer)
    assert answer.status_code == status


def test_other_kinds_of_bodies():
    for headers, said in (
        ({"Content-Type": "application/json"}, "multipart/form-data, got 'application/json'"),
        ({"Content-Encoding": "gzip"}, "got Content-Encoding 'gzip'"),
    ):
        answer = post(b'{"url": "http://127.0.0.1/a.jpg", "path": "/etc/passwd"}', headers=headers)
        assert answer.status_code == 415
        assert said in error_of(answer)


FIELD = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "status", "said"),
    [
        ("multipart/form-data", b"--x\r\n", 400, "needs a boundary"),
        ("multipart/form-data; boundary=" + "x" * 71, b"--x\r\n", 400, "needs a boundary"),
        ("multipart/form-data; boundary=x", b"no boundary", 400, "the form is damaged"),
        ("multipart/form-data; boundary=x", FIELD, 400, "holds no file"),
    ],
)  # fmt: skip
def test_damaged_forms(kind, body, status, said):
    answer = post(body, headers={"Content-Type": kind})
    assert (answer.status_code, said in error_of(answer)) == (status, True), answer.text


def test_more_pictures_than_a_form_may_hold_are_refused_and_none_goes_to_the_disk(monkeypatch):
    monkeypatch.setattr(bodies.File, "_get_disk_file", lambda _: pytest.fail("a part was written to a file"))
    files = [("a", (f"{n}.png", picture() + bytes(2 * 2**20))) for n in range(2)]
    assert post(None, files=files).status_code == 200
    answer = post(None, files=files, settings={"pictures": 1})
    assert answer.status_code == 413
    assert "a form may hold 1 pictures, got more" in error_of(answer)


def test_the_name_of_a_file_is_its_own_and_printable():
    form = 'Content-Disposition: form-data; name="a"; filename="{}"\r\n\r\nx\r\n'
    body = (
        "--x\r\n"
        + "--x\r\n".join(form.format(name) for name in ("..\\\\c\\\\a.png", "/a/b\x01c.png", ".."))
        + "--x--\r\n"
    )
    found = split_form(body.encode(), "multipart/form-data; boundary=x", 9)
    assert [upload.name for upload in found] == ["a.png", "bc.png", ".."]
    assert [upload.data for upload in found] == [b"x"] * 3
    with pytest.raises(RefusedError, match="may hold 2 pictures"):
        split_form(body.encode(), "multipart/form-data; boundary=x", 2)


def test_a_fault_of_the_network_is_told_without_its_trace_and_the_next_request_works(caplog):
    async def main():
        async with client_of(FakeEngine()) as client:
            with caplog.at_level("INFO", "headway.serve"):
                broken = await client.post(DETECT, content=picture(*POISON))
            assert broken.status_code == 500
            assert error_of(broken) == "the service failed on this picture; its log says where"
            assert (await client.post(DETECT, content=picture())).status_code == 200
            assert 'headway_pictures_total{outcome="failed"} 1.0' in (await client.get("/metrics")).text

    asyncio.run(main())
    (record,) = [r for r in caplog.records if r.getMessage() == "a picture failed"]
    assert record.note["error"] == "RuntimeError: the network broke"
