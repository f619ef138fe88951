"""Two hosts behind a router each, as most are: without TURN there is no way, with Debian's coturn there is one.

Network namespaces on this machine; nothing leaves it. 203.0.113.0/24 is the public network (documentation's own), where
only the routers and coturn have addresses:

    client 10.1.0.2 -- 10.1.0.1 NAT 203.0.113.2 -- 203.0.113.1 coturn -- 203.0.113.3 NAT 10.2.0.1 -- 10.2.0.2 server
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

HOST = Path(__file__).parents[1] / "nat_host.py"
PORT = 8080
TURN = "turn:me:secret@203.0.113.1:3478"
MISSING = [name for name in ("ip", "nft", "turnserver") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)}: apt-get install iproute2 nftables coturn"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]


def name(host: str) -> str:
    return f"nat-test-{os.getpid()}-{host}"


def inside(host: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", name(host), *command]


def ip(host: str, command: str) -> None:
    subprocess.run(["ip", "-n", name(host), *command.split()], check=True)


def link(first: str, second: str, port: str) -> None:
    """A cable between two hosts, with a device of this name at both ends."""
    ends = ["name", port, "netns", name(first), "type", "veth", "peer", "name", port, "netns", name(second)]
    subprocess.run(["ip", "link", "add", *ends], check=True)
    for host in (first, second):
        ip(host, f"link set {port} up")


def router(host: str, number: int, forwarded: str = "") -> None:
    """NAT between its `lan` and the public network: nobody outside can begin anything, but for what is forwarded."""
    subprocess.run(inside(host, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"), check=True)
    rules = f"""
        table ip nat {{
            chain in {{
                type nat hook prerouting priority -100;
                {forwarded}
            }}
            chain out {{
                type nat hook postrouting priority 100;
                oifname "wan{number}" masquerade
            }}
        }}
        table ip filter {{
            chain pass {{
                type filter hook forward priority 0; policy drop;
                ct state established,related accept
                iifname "lan" accept
                ct status dnat accept
            }}
        }}"""
    subprocess.run(inside(host, "nft", "-f", "-"), input=rules, text=True, check=True)


@pytest.fixture
def network():
    hosts = ("public", "client", "server", "router2", "router3")
    with ExitStack() as made:
        for host in hosts:
            if subprocess.run(["ip", "netns", "add", name(host)], capture_output=True, check=False).returncode:
                pytest.skip("network namespaces cannot be made here")
            made.callback(subprocess.run, ["ip", "netns", "del", name(host)])
            ip(host, "link set lo up")
        ip("public", "link add bridge type bridge")
        ip("public", "addr add 203.0.113.1/24 dev bridge")
        ip("public", "link set bridge up")
        ip("public", "route add default dev bridge")  # as on the internet, what is sent to private addresses is lost
        for number, lan in ((2, "client"), (3, "server")):
            host = f"router{number}"
            link("public", host, f"wan{number}")
            ip("public", f"link set wan{number} master bridge")
            ip(host, f"addr add 203.0.113.{number}/24 dev wan{number}")
            link(host, lan, "lan")
            ip(host, f"addr add 10.{number - 1}.0.1/24 dev lan")
            ip(lan, f"addr add 10.{number - 1}.0.2/24 dev lan")
            ip(lan, f"route add default via 10.{number - 1}.0.1")
            ip(host, "route add default via 203.0.113.1")
        router("router2", 2)
        router("router3", 3, f'iifname "wan3" tcp dport {PORT} dnat to 10.2.0.2')
        yield


@contextmanager
def running(host: str, *command: str):
    process = subprocess.Popen(inside(host, *command))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def live_server(*ice_servers: str):
    with running("server", sys.executable, str(HOST), "serve", str(PORT), *ice_servers) as process:
        for _ in range(600):
            if (
                f":{PORT} ".encode()
                in subprocess.run(inside("server", "ss", "-ltn"), capture_output=True, check=True).stdout
            ):
                break
            assert process.poll() is None
            time.sleep(0.2)
        yield


def talk() -> str:
    command = inside("client", sys.executable, str(HOST), "talk", f"http://203.0.113.3:{PORT}")
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_without_turn_there_is_no_way_and_a_sentence_says_so(network):
    with live_server():
        said = talk()
    assert said.startswith("refused: ") and "a router or a firewall is between" in said and "TURN" in said


def test_with_turn_the_conversation_runs(network):
    coturn = ["turnserver", "-n", "--listening-ip=203.0.113.1", "--relay-ip=203.0.113.1", "--user=me:secret"]
    options = ["--realm=test", "--lt-cred-mech", "--no-cli", "--no-tls", "--no-dtls", "--log-file=stdout", "--pidfile="]
    with running("public", *coturn, *options), live_server(TURN):
        assert talk().startswith("heard 1")
