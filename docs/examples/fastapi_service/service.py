import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request, status
from fastapi.responses import JSONResponse

from sessions import AsyncChats, BackendUnavailableError, InvalidInputError, SessionNotFoundError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncChats(os.environ.get("DATABASE_URL", "sqlite:///chat.db")) as chats:
        app.state.chats = chats
        yield


app = FastAPI(lifespan=lifespan)


def get_chats(request: Request) -> AsyncChats:
    return request.app.state.chats


Chats = Annotated[AsyncChats, Depends(get_chats)]
# In place of your login: the user is who your service says.
UserId = Annotated[str, Header(alias="X-User")]


@app.exception_handler(InvalidInputError)
async def refuse(_: Request, error: InvalidInputError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status.HTTP_400_BAD_REQUEST)


@app.exception_handler(SessionNotFoundError)
async def not_found(_: Request, error: SessionNotFoundError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status.HTTP_404_NOT_FOUND)


@app.exception_handler(BackendUnavailableError)
async def unavailable(_: Request, __: BackendUnavailableError) -> JSONResponse:
    return JSONResponse({"detail": "try again later"}, status.HTTP_503_SERVICE_UNAVAILABLE)


@app.post("/sessions", status_code=status.HTTP_201_CREATED)
async def create(user_id: UserId, chats: Chats) -> dict[str, str]:
    return {"session_id": await chats.create_session(user_id)}


@app.post("/sessions/{session_id}/messages", status_code=status.HTTP_201_CREATED)
async def ask(user_id: UserId, session_id: str, text: str, chats: Chats) -> dict[str, str]:
    await chats.add_message(user_id, session_id, "user", text)
    answer = text[::-1]  # Where the model is called.
    await chats.add_message(user_id, session_id, "assistant", answer)
    return {"answer": answer}


@app.get("/sessions/{session_id}/messages")
async def history(user_id: UserId, session_id: str, chats: Chats) -> list[str]:
    messages = await chats.get_session_history(user_id, session_id, limit=50)
    return [message.content for message in messages]


@app.get("/health/live")
async def live() -> dict[str, bool]:
    return {"live": True}


@app.get("/health/ready")
async def ready(chats: Chats) -> dict[str, bool]:
    if not await chats.is_healthy():
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "the database takes no writes")
    return {"ready": True}
