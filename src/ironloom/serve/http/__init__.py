"""HTTP/1.1 on asyncio protocols: one strict server and one pooled client, shared by gateway and engine programs."""
