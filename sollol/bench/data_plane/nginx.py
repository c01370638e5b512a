"""nginx as the node that costs nothing, and as the reverse proxy to compare with."""

from collections.abc import Mapping
from pathlib import Path

_MAIN = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
{http}
}}
"""
_NODE = """\
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
{locations}
  }}
"""
_PROXY = """\
  upstream node {{
    server 127.0.0.1:{node_port};
    keepalive 2048;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://node;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
"""


def node_command(nginx: str, folder: Path, port: int, answers: Mapping[str, bytes]) -> list[str]:
    """Return the command of a node with fixed answers, and write its configuration.

    Args:
        nginx: path of the program.
        folder: where this instance keeps its files; made if it is not there.
        answers: JSON bodies by path.
    """
    locations = "\n".join(
        f"    location = {path} {{ return 200 '{body.decode()}'; }}"
        for path, body in answers.items()
    )
    return _command(nginx, folder, _NODE.format(port=port, locations=locations))


def proxy_command(nginx: str, folder: Path, port: int, node_port: int) -> list[str]:
    """Return the command of a reverse proxy in front of one node, and write its configuration."""
    return _command(nginx, folder, _PROXY.format(port=port, node_port=node_port))


def _command(nginx: str, folder: Path, http: str) -> list[str]:
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_MAIN.format(folder=folder, http=http))
    return [nginx, "-p", str(folder), "-e", "stderr", "-c", str(config)]
