"""What a browser without script makes of a page."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser without script makes of a page: its words, its elements, its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.elements, self._within = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._within.append(tag)

    def handle_endtag(self, tag):
        if tag in self._within:
            while self._within.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._within):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]
