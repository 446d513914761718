"""Security headers of every response, and CORS. This layer surrounds the edge."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RATE = "task_service.rate"
"""Key in the request's scope of the rate limit headers."""
CLOSED = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
HSTS = (b"strict-transport-security", b"max-age=31536000")
ALLOWED = (
    "Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key",
    "Last-Event-ID", "X-Request-Id", "traceparent", "tracestate",
)  # fmt: skip
EXPOSED = (
    "ETag", "Location", "Link", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining",
    "RateLimit-Reset", "RateLimit-Policy", "RateLimit", "X-Request-Id", "X-Total-Count",
    "WWW-Authenticate", "Content-Disposition", "Idempotency-Replayed",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PREFLIGHT_SECONDS = 600


class SecurityHeaders:
    """ASGI middleware: adds the headers that a response does not set itself."""

    def __init__(self, app: ASGIApp, *, https_only: bool = False) -> None:
        """With `https_only`, HSTS makes browsers use HTTPS for all later requests."""
        self.app = app
        self._always = (*ALWAYS, HSTS) if https_only else ALWAYS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        rate = scope[RATE] = []
        is_private = any(name == b"authorization" for name, _ in scope["headers"])

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message["headers"]
                names = {name.lower() for name, _ in given}
                added = [*self._always, *rate]
                if b"content-security-policy" not in names:
                    added.append((b"content-security-policy", CLOSED))
                if is_private and b"cache-control" not in names:
                    added.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*given, *added]}
            await send(message)

        await self.app(scope, receive, answer)


def allow_origins(app: ASGIApp, origins: tuple[str, ...]) -> CORSMiddleware:
    """Allow browser pages of these origins to call the app, with bearer tokens but not cookies."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=ALLOWED,
        expose_headers=EXPOSED,
        max_age=PREFLIGHT_SECONDS,
    )
