"""`triptych models`: ask a model. The answer goes to standard output, what it came to to standard error."""

import json
import sys
from typing import Any

import click
from google.protobuf import json_format

from services.cli import callers, names
from services.cli.callers import json_option
from services.cli.links import Link, providing
from services.cli.numbers import Real, Whole
from triptych.providers.v1 import model_pb2, model_service_pb2 as pb, provider_service_pb2 as provider_pb
from triptych.providers.v1.model_pb2 import ChatMessage, ChatRole, Fallback, FinishReason, KeySource
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

SECONDS = 600
KEYS = {
    KeySource.KEY_SOURCE_OWN: "your key",
    KeySource.KEY_SOURCE_PLATFORM: "the platform's key",
    KeySource.KEY_SOURCE_NONE: "no key",
}
ENDS = {
    FinishReason.FINISH_REASON_LENGTH: "; cut off, it is as long as it may be",
    FinishReason.FINISH_REASON_FILTERED: "; the provider withheld the rest",
}


class Cancelled(click.ClickException):
    """Ctrl-C."""

    def __init__(self, *, answered: bool) -> None:
        super().__init__(
            "cancelled: what was written until here is charged, the rest of the hold is released"
            if answered
            else "cancelled: the hold is released, nothing is charged"
        )


def asking(command: Any) -> Any:
    """Add the options of a question."""
    for option in (
        click.argument("prompt", required=False),
        click.option("--operation", default="chat", show_default=True, help="What for, in usage reports."),
        click.option("--temperature", type=Real(0, 2), help="Else the model's own."),
        click.option("--max-tokens", "max_output_tokens", type=Whole(1, 10_000_000), help="Longest answer."),
        click.option("--system", help="Instructions that stand above the conversation."),
        click.option("--local", is_flag=True, help="A local model may answer at last, where the tenant allows it."),
        click.option(
            "--platform-key", is_flag=True, help="The platform's key may be used, where the tenant allows it."
        ),
        click.option("--fallback", "fallbacks", multiple=True, help="Provider that may answer instead; repeatable."),
        click.option("--model", help="Model; names the provider where only one has it."),
        click.option("--provider", help="Provider to ask, by name or id."),
    ):
        command = option(command)
    return command


@click.group()
def models() -> None:
    """Ask models, with your key, within your quota.

    \b
    triptych models stream --provider house "Why is the sky blue?"
    git diff | triptych models invoke --provider house --system "Review this." --max-tokens 500
    """  # noqa: D301 - click's mark


@models.command()
@asking
@json_option
@providing
def invoke(link: Link, *, as_json: bool, **given: Any) -> None:
    """Ask a model with PROMPT, or standard input, and print the whole answer.

    \b
    triptych models invoke --provider house --fallback claude "Why is the sky blue?"
    """  # noqa: D301 - click's mark
    request, known = _request(link, pb.InvokeModelRequest(), **given)
    try:
        answer = link.call(ModelServiceStub, "InvokeModel", request, seconds=SECONDS)
    except KeyboardInterrupt:
        raise Cancelled(answered=False) from None
    if as_json:
        callers.show(answer, as_json=True)
        return
    click.echo(answer.text)
    _sum_up(link, answer.invocation, known)


@models.command()
@asking
@json_option
@providing
def stream(link: Link, *, as_json: bool, **given: Any) -> None:
    """Ask a model with PROMPT, or standard input, and print the answer as it is written; Ctrl-C ends it.

    \b
    triptych models stream --model house-7b "Tell me a long story."
    """  # noqa: D301 - click's mark
    request, known = _request(link, pb.StreamModelRequest(), **given)
    invocation, answered = None, False
    try:
        for piece in link.stream(ModelServiceStub, "StreamModel", request, seconds=SECONDS):
            if as_json:
                print(json.dumps(json_format.MessageToDict(piece, preserving_proto_field_name=True)), flush=True)
            elif piece.text:
                print(piece.text, end="", flush=True)
            answered = answered or bool(piece.text)
            invocation = piece.invocation if piece.HasField("invocation") else invocation
    except KeyboardInterrupt:
        raise Cancelled(answered=answered) from None
    finally:
        if answered and not as_json:
            print(flush=True)
    if invocation is not None and not as_json:
        _sum_up(link, invocation, known)


def _request(
    link: Link, request: Any, *, provider: str | None, model: str | None, fallbacks: tuple[str, ...],
    platform_key: bool, local: bool, system: str | None, prompt: str | None, operation: str, **given: Any,
) -> tuple[Any, dict[str, str]]:  # fmt: skip
    """Give the request, and the names of providers that it speaks of."""
    text = _piped() if prompt is None else prompt
    if not text.strip():
        raise click.UsageError("say what to ask: as PROMPT, or on standard input")
    asked = _provider(link, provider, model)
    _warn_of_limit(asked, given.get("max_output_tokens"))
    others = [names.provider(link, name) for name in fallbacks]
    request.provider_id, request.operation = asked.id, operation
    if system:
        request.messages.append(ChatMessage(role=ChatRole.CHAT_ROLE_SYSTEM, content=system))
    request.messages.append(ChatMessage(role=ChatRole.CHAT_ROLE_USER, content=text))
    request.fallback.CopyFrom(
        Fallback(platform_key=platform_key, provider_ids=[other.id for other in others], local=local)
    )
    for field, value in given.items():
        if value is not None:
            setattr(request, field, value)
    return request, {one.id: one.name for one in (asked, *others)}


def _warn_of_limit(provider: Provider, wanted: int | None) -> None:
    """Say that an answer will be shorter than was asked for: the provider's limit holds."""
    if wanted is not None and wanted > provider.max_tokens:
        limit = f"{provider.name} writes {provider.max_tokens} tokens at most, not {wanted}"
        click.echo(f"{limit}; an admin sets it with `triptych providers update {provider.name} --max-tokens`", err=True)


def _piped() -> str:
    """Read the question from a pipe; at a terminal nobody would know that it is waited for."""
    return "" if sys.stdin.isatty() else sys.stdin.read()


def _provider(link: Link, name: str | None, model: str | None) -> Provider:
    """Give the provider that is asked: by its name, or as the only one with the model."""
    if name is not None:
        found = names.provider(link, name)
        if model is not None and found.model_name != model:
            raise click.ClickException(f"{found.name} has the model {found.model_name}, not {model}: leave out --model")
        return found
    if model is None:
        raise click.UsageError("say whom to ask: --provider or --model; `triptych providers list` shows what there is")
    having = [one for one in names.providers(link) if one.model_name == model and one.active]
    if len(having) == 1:
        return having[0]
    if not having:
        raise click.ClickException(
            f"no active provider has the model {model}: `triptych providers list` shows what there is"
        )
    raise click.ClickException(f"several have it, name one with --provider: {', '.join(one.name for one in having)}")


def _sum_up(link: Link, invocation: model_pb2.Invocation, known: dict[str, str]) -> None:
    """Say in one line on standard error what it came to."""
    name = known.get(invocation.provider_id) or _name(link, invocation.provider_id)
    guess = " (estimated)" if invocation.estimated else ""
    tries = f"; {invocation.attempts} requests" if invocation.attempts > 1 else ""
    sys.stdout.flush()
    click.echo(
        f"tokens: {invocation.input_tokens} in, {invocation.output_tokens} out{guess}; {invocation.cost_usd or 0} USD; "
        f"{name} ({invocation.model_name}) with {KEYS.get(invocation.key_source, 'a key')}"
        f"{tries}{ENDS.get(invocation.finish_reason, '')}",
        err=True,
    )


def _name(link: Link, provider_id: str) -> str:
    """Give the name of a provider that nobody named: the tenant's local one."""
    request = provider_pb.GetProviderRequest(provider_id=provider_id)
    return str(link.call(ProviderServiceStub, "GetProvider", request).provider.name)
