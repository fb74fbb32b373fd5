"""The demo measured on several seeds, beside what it promises."""
