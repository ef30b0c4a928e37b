"""The demonstration's OpenAI server, which also misbehaves: slow, garbage, broken, busy, walled, redirect, anthropic.

Run it alone: python -m tests.fakes.openai_server --port 8001 --mode slow
"""

import asyncio
from typing import Final, Literal, get_args

from services.cli.demo import openai_server
from services.cli.demo.openai_server import PREFIX, Answer, OpenAIServer, Request, arguments

Mode = Literal["well", "slow", "garbage", "broken", "busy", "redirect", "endless", "walled", "anthropic"]
RETRY_SECONDS: Final = 17


class FakeOpenAI(OpenAIServer):
    """Behaves as its mode says, and remembers what it was asked."""

    def __init__(self, *, mode: Mode = "well", port: int = 0, prefix: str = PREFIX) -> None:
        super().__init__(port=port, prefix=prefix)
        self.mode: Mode = mode
        self.requests: list[Request] = []
        self.released = asyncio.Event()
        """Set it to let slow answers go."""

    async def __aexit__(self, *given: object) -> None:
        self.released.set()  # whoever still waits for it must not keep the server from closing
        await super().__aexit__(*given)

    async def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        if self.mode == "slow":
            await self.released.wait()
        if self.mode == "anthropic":
            return self._as_anthropic(request)
        return self._misbehaviour() or await super().answer(request)

    def _misbehaviour(self) -> Answer | None:
        """What is answered whatever was asked."""
        busy = Answer.error(429, "Rate limit reached.", code="rate_limit_exceeded")
        return {
            "garbage": Answer(200, b"<html>Welcome to the hotel's network</html>"),
            "broken": Answer.error(500, "The server had an error while processing your request."),
            "busy": Answer(429, busy.body, {"retry-after": str(RETRY_SECONDS)}),
            "redirect": Answer(302, b"", {"location": f"{self.url}/v1/elsewhere"}),
            "walled": Answer(403, b"<html>Blocked by the firewall</html>"),
            "endless": Answer(200, b"[" + b" " * (5 * 1024 * 1024)),
        }.get(self.mode)

    def _as_anthropic(self, request: Request) -> Answer:
        """Speak Anthropic's format."""
        if not request.headers.get("x-api-key", "").startswith(self.prefix):
            error = {"type": "authentication_error", "message": "invalid x-api-key"}
            return Answer.of({"type": "error", "error": error}, status=401)
        if "anthropic-version" not in request.headers:
            return Answer.of({"type": "error", "error": {"type": "invalid_request_error"}}, status=400)
        return Answer.of({"data": [{"type": "model", "id": "claude"}], "has_more": False})


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("--mode", choices=get_args(Mode), default="well")
    given = parser.parse_args()
    fake = FakeOpenAI(mode=given.mode, port=given.port, prefix=given.key_prefix)
    asyncio.run(openai_server.serve(fake))
