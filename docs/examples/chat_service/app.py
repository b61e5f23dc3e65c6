"""A chat service: REST, server-sent events, a page. The settings of `sessions` choose the database."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import model
from fastapi import Body, Cookie, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from sessions import ChatMessage, ChatSession, PreviewPage, SearchPage, SessionsError, errors
from sessions.services import ChatResult, ChatService

STATUS_CODES = {
    400: (errors.InvalidInputError,),
    404: (errors.SessionNotFoundError, errors.SessionConflictError),  # Also another user's.
    409: (errors.TurnConflictError, errors.MessageConflictError),
    503: (errors.BackendUnavailableError, errors.SchemaOutdatedError),
}
service = ChatService(model.answer)  # Connects when it is first used.
repository = service.repository


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with service:  # At the end: waits for answers that are being stored, and closes the connections.
        yield


def signed_in(x_user: Annotated[str, Header()] = "", user: Annotated[str, Cookie()] = "") -> str:
    """A stand-in for authentication: it believes every client. Return the user of a verified token here."""
    if not (name := unquote(x_user or user)):
        raise HTTPException(401, "the header X-User, or the cookie user, is missing")
    return name


async def own(user: Annotated[str, Depends(signed_in)], session_id: str | None = None) -> str | None:
    if session_id is not None and await repository.get_session(user, session_id) is None:
        raise errors.SessionNotFoundError("there is no such session")
    return session_id


app = FastAPI(title="Chat", lifespan=lifespan)
User = Annotated[str, Depends(signed_in)]
SessionId = Annotated[str, Depends(own)]  # In the path.
OptionalId = Annotated[str | None, Depends(own)]  # In the query; None for a new session.
Text = Annotated[str, Body(min_length=1, max_length=100_000, embed=True)]
Title, Pinned = Annotated[str | None, Body()], Annotated[bool | None, Body()]
MessageId = Annotated[str | None, Body()]  # The client's own, with which it may send a message twice.


def describe(error: SessionsError) -> dict[str, Any]:
    status = next((code for code, kinds in STATUS_CODES.items() if isinstance(error, kinds)), 500)
    return {"status": status, "detail": str(error) if status < 500 else "try again later"}


@app.exception_handler(SessionsError)
async def failed(_: Request, error: SessionsError) -> JSONResponse:
    return JSONResponse(described := describe(error), described["status"])


@app.post("/api/chat")
async def chat(message: Text, session_id: OptionalId, user: User, message_id: MessageId = None) -> ChatResult:
    return await service.chat(message, user, session_id, message_id=message_id)


@app.post("/api/chat/stream")
async def stream(message: Text, session_id: OptionalId, user: User, message_id: MessageId = None) -> Response:
    return streamed(service.stream(message, user, session_id, "sse", message_id=message_id))


@app.post("/api/sessions/{session_id}/regenerate")
async def regenerate(session_id: SessionId, user: User) -> Response:
    return streamed(service.stream_regenerate(user, session_id, "sse"))


@app.post("/api/sessions/{session_id}/messages/{message_id}/edit")
async def edit(session_id: SessionId, message_id: str, message: Text, user: User, branch: bool) -> Response:
    return streamed(service.stream_edit(user, session_id, message_id, message, branch=branch, protocol="sse"))


def streamed(items: AsyncGenerator[str | ChatResult, None]) -> Response:
    async def events() -> AsyncIterator[str]:
        async with aclosing(items):  # When the client disconnects, the service stores the answer so far.
            try:
                async for item in items:
                    yield f"event: {'piece' if type(item) is str else 'result'}\ndata: {json.dumps(item)}\n\n"
            except SessionsError as error:
                yield f"event: error\ndata: {json.dumps(describe(error))}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/api/sessions/{session_id}/messages")
async def history(session_id: SessionId, user: User, before: str | None = None) -> list[ChatMessage]:
    return await service.get_session_history(user, session_id, limit=50, before=before)


@app.get("/api/sessions")
async def previews(user: User, pinned: bool = False, cursor: str | None = None) -> PreviewPage:
    where = {"pinned": True if pinned else [False, None]}
    return await repository.list_session_previews(user, limit=20, cursor=cursor, where=where)


@app.get("/api/sessions/{session_id}")
async def found(session_id: SessionId, user: User) -> ChatSession | None:
    return await repository.get_session(user, session_id)


@app.get("/api/search")
async def search(user: User, query: str, cursor: str | None = None) -> SearchPage:
    return await repository.search_messages(user, query, cursor=cursor)


@app.patch("/api/sessions/{session_id}", status_code=204)
async def change(session_id: SessionId, user: User, title: Title = None, pinned: Pinned = None) -> None:
    pin = None if pinned is None else {"pinned": pinned}
    await repository.update_session_async(user, session_id, {"title": title}, merge_metadata=pin, touch=False)


@app.delete("/api/sessions/{session_id}", status_code=204)
async def delete(session_id: SessionId, user: User) -> None:
    await service.delete_session(user, session_id)


@app.get("/health/startup")
async def startup() -> str:
    await repository.ensure_ready()  # Connects, and checks the schema.
    return "started"


@app.get("/health/ready")
async def ready() -> str:
    if not await repository.is_healthy():
        raise HTTPException(503, "the database takes no writes")
    return "ready"


@app.get("/health/live")
async def live() -> str:
    return "alive"  # Without the database: a restart would not mend it.


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))
