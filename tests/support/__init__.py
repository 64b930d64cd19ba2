"""What the tests share: real servers, a proxy that loses replies, and helpers."""
