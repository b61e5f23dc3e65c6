"""Items as the SDK stores them, each with the role and the content that a reader sees."""

from __future__ import annotations

from typing import Any

IMAGE = "data:image/png;base64,iVBORw0KGgo="

ITEMS: list[tuple[Any, str, str]] = [
    ({"role": "user", "content": "What is in Rome?"}, "user", "What is in Rome?"),
    ({"role": "developer", "content": "Be brief."}, "developer", "Be brief."),
    (
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look:"},
                {"type": "input_image", "image_url": IMAGE, "detail": "auto"},
                {"type": "input_file", "file_id": "file-1", "filename": "map.pdf"},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            ],
        },
        "user",
        "Look:\n[image]\n[file: map.pdf]\n[audio]",
    ),
    (
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "The user is in Rome."}],
            "encrypted_content": "gAAAA",
        },
        "assistant",
        "The user is in Rome.",
    ),
    ({"id": "rs_2", "type": "reasoning", "summary": [], "encrypted_content": "gAAAB"}, "assistant", ""),
    (
        {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city": "Rome"}',
            "status": "completed",
        },
        "assistant",
        'weather({"city": "Rome"})',
    ),
    (
        {"type": "function_call_output", "call_id": "call_1", "output": "Sunny"},
        "tool",
        "Sunny",
    ),
    (
        {"type": "function_call", "call_id": "call_2", "name": "transfer_to_guide", "arguments": "{}"},
        "assistant",
        "transfer_to_guide({})",
    ),
    (
        {"type": "function_call_output", "call_id": "call_2", "output": '{"assistant": "Guide"}'},
        "tool",
        '{"assistant": "Guide"}',
    ),
    (
        {
            "type": "function_call_output",
            "call_id": "call_3",
            "output": [{"type": "input_text", "text": "A"}, {"type": "input_image", "image_url": IMAGE}],
        },
        "tool",
        "A\n[image]",
    ),
    (
        {
            "id": "ws_1",
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "Rome"},
        },
        "assistant",
        'web_search({"type": "search", "query": "Rome"})',
    ),
    (
        {
            "id": "mcpr_1",
            "type": "mcp_approval_request",
            "name": "buy",
            "arguments": "{}",
            "server_label": "s",
        },
        "assistant",
        "buy({})",
    ),
    ({"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}, "tool", ""),
    (
        {
            "type": "computer_call_output",
            "call_id": "call_4",
            "output": {"type": "computer_screenshot", "image_url": IMAGE},
        },
        "tool",
        "[screenshot]",
    ),
    ({"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAAC"}, "assistant", ""),
    (
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "The Pantheon.", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "No more."},
            ],
            "provider_data": {"model": "small-1", "response_id": "resp_1"},
        },
        "assistant",
        "The Pantheon.\nNo more.",
    ),
    (
        {"role": "user", "content": "NUL \0, half \ud800, \N{GRINNING FACE}"},
        "user",
        "NUL \ufffd, half \ufffd, 😀",
    ),
    ({"role": "user", "content": "", "n": 2**70, "nested": {"z": 1, "a": [None, 1.5, True]}}, "user", ""),
]
