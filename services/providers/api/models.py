"""The RPCs of ModelService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from services.providers.invocations import Invocations
from triptych.providers.v1 import model_service_pb2 as pb, model_service_pb2_grpc


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Models that the caller may ask."""

    def __init__(self, *, invocations: Invocations) -> None:
        self._invocations = invocations

    async def InvokeModel(self, request: pb.InvokeModelRequest, context: object) -> pb.InvokeModelResponse:
        answer = pb.InvokeModelResponse()
        async with aclosing(self._invocations.run(request, streaming=False)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    answer.text += part
                else:
                    answer.invocation.CopyFrom(part)
        return answer

    async def StreamModel(
        self, request: pb.StreamModelRequest, context: object
    ) -> AsyncIterator[pb.StreamModelResponse]:
        async with aclosing(self._invocations.run(request, streaming=True)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    yield pb.StreamModelResponse(text=part)
                else:
                    yield pb.StreamModelResponse(invocation=part)
