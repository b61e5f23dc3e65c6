"""The API in plain names: `AsyncChats`, and `Chats` for callers without an event loop."""

from sessions.chats.async_chats import AsyncChats
from sessions.chats.blocking_chats import Chats

__all__ = ["AsyncChats", "Chats"]
