"""HTTP requests to servers that aren't trusted: each gives bytes or fails with a one-line message."""

from concurrent.futures import Future
from http.client import HTTPException, HTTPMessage, HTTPResponse
from threading import Event, Thread
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

_LONGEST = 200  # characters of what a server says that are passed on


class FailedError(Exception):
    """A mirror did not give us the file; the text says why.

    ``brought`` is how many bytes it gave, ``final`` whether to ask again is in vain.
    """

    def __init__(self, reason: str, brought: int = 0, final: bool = False):
        super().__init__(reason)
        self.brought, self.final = brought, final


class _Redirects(HTTPRedirectHandler):
    """To other addresses of the web alone, and from https to no other than https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise HTTPError(newurl, code, f"it redirects from {req.type} to {scheme}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def answer_to(url: str, headers: dict[str, str], seconds: float, stall: float) -> HTTPResponse:
    """The answer to a request, its body unread; `FailedError` if there is none, or it is an error.

    Args:
        url: http or https.
        headers: of the request.
        seconds: to wait for the answer, looking up the name and all redirects included.
        stall: seconds to wait for the next bytes.
    """
    answer: Future[HTTPResponse] = Future()
    given_up = Event()

    def work() -> None:
        try:
            response = build_opener(_Redirects).open(Request(url, headers=headers), timeout=stall)
        except Exception as error:
            answer.set_exception(error)
        else:
            answer.set_result(response)
            if given_up.is_set():
                response.close()

    Thread(target=work, daemon=True).start()  # of its own, because looking up a name has no timeout
    try:
        return answer.result(seconds)
    except HTTPError as error:
        error.close()
        raise FailedError(f"HTTP {error.code} {plain(error.reason)}") from error
    except TimeoutError as error:
        given_up.set()
        raise FailedError("no answer in time") from error
    except URLError as error:
        raise FailedError(plain(error.reason)) from error
    except Exception as error:  # a redirect to what is no address raises whatever its parts lead to
        raise FailedError(plain(error)) from error


def chunk(response: HTTPResponse) -> bytes:
    """The next bytes of the body, none at its end; `FailedError` if the connection breaks."""
    try:
        return response.read1(1 << 16)
    except (OSError, HTTPException, ValueError) as error:
        raise FailedError(f"the connection broke: {plain(error)}") from error


def plain(reason: object) -> str:
    """What went wrong in one line, without an error number, nor anything that a terminal would obey."""
    text = " ".join(str(getattr(reason, "strerror", None) or reason or type(reason).__name__).split())
    return text[:_LONGEST] if text.isprintable() else ascii(text[:_LONGEST])
