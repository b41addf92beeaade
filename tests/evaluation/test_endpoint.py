"""An endpoint that answers, one that does not, and one that answers something else: a server on this machine."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from linscore.errors import LinscoreError
from linscore.evaluation.endpoint import KEY, Endpoint

SECRET = "sk-0123456789"


def completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def server(monkeypatch):
    """Gives its scripted answers, (status, body, headers), one after the other, the last again and again."""
    monkeypatch.setenv("no_proxy", "*")

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            served.asked.append((self.path, dict(self.headers), json.loads(body)))
            status, text, headers = served.script.pop(0) if len(served.script) > 1 else served.script[0]
            if status == 0:
                time.sleep(0.3)
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self):
            served.asked.append((self.path, {}, None))
            self.send_error(500)

        def log_message(self, *_):
            """Nothing."""

    served = HTTPServer(("127.0.0.1", 0), Answers)
    served.script, served.asked = [], []
    served.url = f"http://127.0.0.1:{served.server_port}/v1"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_question_goes_out_as_a_chat_and_the_answer_comes_back(server):
    server.script = [(200, completion("é 7"), {})]
    assert Endpoint(f"{server.url}/", "gpt", SECRET).ask("how?") == "é 7"
    [(path, headers, body)] = server.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body == {"model": "gpt", "messages": [{"role": "user", "content": "how?"}]}
    Endpoint(server.url, "gpt").ask("how?")
    assert "Authorization" not in server.asked[-1][1]


def test_an_endpoint_that_is_busy_is_asked_again(server):
    server.script = [(503, "", {}), (429, "", {}), (200, completion("now"), {})]
    waited = []
    assert Endpoint(server.url, "gpt", wait=waited.append).ask("?") == "now"
    assert waited == [2.0, 4.0]
    server.script = [(500, "out of order", {})]
    with pytest.raises(LinscoreError, match=r"answers 500 \(out of order\)"):
        Endpoint(server.url, "gpt", wait=waited.append).ask("?")
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("status", "body", "headers", "says"),
    [
        (401, f"wrong key\n{SECRET}", {}, rf"answers 401 \(wrong key …\): check the key in {KEY}"),
        (404, "no such model", {}, "answers 404 .*`endpoint`, which often ends in /v1, and `judge`"),
        (400, "", {}, "answers 400"),
        (302, "", {"Location": "/elsewhere"}, "answers 302"),
        (307, "", {"Location": "/elsewhere"}, "answers 307"),
        (200, "<html>\x1b[31m hello", {}, r"no chat completion \(it begins with '<html> \[31m hello'\)"),
        (200, f'{{"error": "{SECRET}"}}', {}, "no chat completion .*…"),
        (200, '{"choices": [{"message": {"content": null}}]}', {}, "no chat completion"),
        (200, "[" * 100_000, {}, "no chat completion"),
    ],
)
def test_what_is_no_answer_is_one_line_without_the_key_and_not_asked_again(server, status, body, headers, says):
    server.script = [(status, body, headers)]
    with pytest.raises(LinscoreError, match=says) as error:
        Endpoint(server.url, "gpt", SECRET, wait=pytest.fail).ask("?")
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.asked) == 1


def test_an_endpoint_that_never_answers_is_given_up(server):
    server.script = [(0, "", {})]
    with pytest.raises(LinscoreError, match=r"no answer from http://127.*check `endpoint`"):
        Endpoint(server.url, "gpt", seconds=0.05, wait=lambda _: None).ask("?")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LinscoreError, match=r"no answer from .*refused"):
        Endpoint(f"http://127.0.0.1:{port}", "gpt", wait=lambda _: None).ask("?")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:8000/v1", "no address"),
        ("file:///etc/passwd", "no address"),
        ("http://", "no address"),
        ("http://a:b/v1", "no address"),
        (f"http://{'a' * 70}.org/v1", "no address"),
        ("http://me:secret@host/v1", "leave out name, password and query"),
        ("http://host/v1?key=secret", "leave out name, password and query"),
    ],
)
def test_an_address_is_one_and_nothing_more(url, says):
    with pytest.raises(LinscoreError, match=says) as error:
        Endpoint(url, "gpt")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("key", ["", "two words", f"{SECRET}\n", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(key):
    with pytest.raises(LinscoreError, match=f"{KEY} holds no key") as error:
        Endpoint("http://localhost/v1", "gpt", key)
    assert key == "" or key.strip() not in str(error.value)
