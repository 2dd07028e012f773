"""Just enough of HTTP/2 (RFC 9113, 4.1) to see in a byte stream which request and which reply is complete."""

from dataclasses import dataclass

_HEADER = 9
_DATA = 0x0
_HEADERS = 0x1
_END_STREAM = 0x1
_CLIENT_PREFACE = 24


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `stream` numbers a request and its reply."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends_stream(self) -> bool:
        """Its sender has nothing more to say on this stream; of a gRPC reply these are the trailers."""
        return self.kind in {_DATA, _HEADERS} and bool(self.flags & _END_STREAM)


class FrameReader:
    """Takes the bytes of one direction as they come, and gives the frames that they complete."""

    def __init__(self, skip: int) -> None:
        """`skip`: bytes before the first frame."""
        self._skip = skip
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        skipped = min(self._skip, len(self._buffer))
        self._skip -= skipped
        del self._buffer[:skipped]
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._buffer) < _HEADER:
            return None
        end = _HEADER + int.from_bytes(self._buffer[:3], "big")
        if len(self._buffer) < end:
            return None
        stream = int.from_bytes(self._buffer[5:_HEADER], "big") & 0x7FFF_FFFF
        frame = Frame(self._buffer[3], self._buffer[4], stream, bytes(self._buffer[_HEADER:end]))
        del self._buffer[:end]
        return frame


def client_frames() -> FrameReader:
    """For what a client sends."""
    return FrameReader(_CLIENT_PREFACE)


def server_frames() -> FrameReader:
    """For what a server sends."""
    return FrameReader(0)
