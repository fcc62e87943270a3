"""A camera that speaks RTSP 1.0 (RFC 2326) to one viewer: MPEG-TS in RTP (RFC 2250), inside the one connection."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 60  # seconds without a word from the viewer
_PACKETS = 7  # of 188 bytes in each RTP packet

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"


@contextmanager
def rtsp_camera(content: bytes) -> Iterator[str]:
    """The address at which `content`, a transport stream, is sent once; then the camera hangs up."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(LIMIT)
    thread = threading.Thread(target=_serve, args=(server, content), daemon=True)
    thread.start()
    yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/live"
    thread.join(LIMIT)
    server.close()


def _serve(server: socket.socket, content: bytes) -> None:
    connection, _ = server.accept()
    connection.settimeout(LIMIT)
    with connection, connection.makefile("rb") as requests:
        while line := requests.readline().decode():
            headers = {}
            while header := requests.readline().decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            _answer(connection, line.split()[0], headers["cseq"])
            if line.startswith("PLAY"):
                _send(connection, content)
                return


def _answer(connection: socket.socket, method: str, number: str) -> None:
    more = {
        "OPTIONS": "Public: DESCRIBE, SETUP, PLAY\r\n",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
        "PLAY": "Session: 1\r\n",
    }.get(method, "")
    body = SDP if method == "DESCRIBE" else ""
    if body:
        more += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n{body}".encode())


def _send(connection: socket.socket, content: bytes) -> None:
    size = 188 * _PACKETS
    for number, start in enumerate(range(0, len(content), size)):
        packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, 3600 * number, 1) + content[start : start + size]
        connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
