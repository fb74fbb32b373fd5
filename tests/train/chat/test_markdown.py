"""Markdown of a model: shown, and harmless."""

import html.parser

import pytest

from train.chat.markdown import to_html

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#115;cript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](//evil.example/a)",
    "[x](/api/answer)",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    "![x](https://evil.example/pixel.png)",
    "![x](x)<svg onload=alert(1)>",
    '[x](https://a.example/"onmouseover="alert(1))',
    '```"><script>alert(1)</script>\ncode\n```',
    "`<b onclick=alert(1)>`",
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](https:x)",
]
TAGS = {
    "p", "br", "hr", "a", "em", "strong", "s", "code", "pre", "ul", "ol", "li", "blockquote", "h3",
    "h4", "h5", "h6", "div", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {
    "div": {"class", "role", "aria-label", "tabindex"},
    "a": {"href", "target", "rel", "title"},
    "code": {"class"},
    "ol": {"start"},
}


class Checked(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag in TAGS
        assert attrs.keys() <= ATTRIBUTES.get(tag, set())
        if tag == "a":
            assert attrs["href"].startswith(("https://", "http://"))
            assert attrs["rel"].startswith("noopener") and attrs["target"] == "_blank"
        self.tags.append(tag)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_html_of_the_model_reaches_the_page(text):
    Checked(to_html(text))


def test_markdown_is_shown():
    text = "# Title\n\n**bold** `code` [link](https://a.example)\n\n1. one\n\n|a|b|\n|-|-|\n|1|2|"
    assert {"h3", "strong", "code", "a", "ol", "table"} <= set(Checked(to_html(text)).tags)
    assert to_html("a\nb") == "<p>a<br>\nb</p>\n"
    assert to_html("a < b") == "<p>a &lt; b</p>\n"
