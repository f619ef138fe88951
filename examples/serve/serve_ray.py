"""The live server on more than one machine: a Ray Serve deployment, one replica per device (extra `ray`).

    python examples/serve/serve_ray.py --replicas 2

Ray Serve sends an offer to any replica. A conversation then stays with the one that answered, because sound and picture
travel straight between it and the client; nothing is shared between replicas. Each admits what its own memory and speed
allow and says "full" otherwise, and a client that calls again may meet another replica.
"""

import signal
from typing import Annotated

import ray
import typer
from ray import serve
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.serve import LiveServer, ServeOptions, create_app


def build_app(checkpoint: str, options: ServeOptions):
    """Ray Serve calls this in every replica, so each loads its own weights and measures its own capacity."""

    def build():
        return create_app(LiveServer(StreamerPipeline.from_pretrained(checkpoint), options))

    return build


def deploy(checkpoint: str, options: ServeOptions, replicas: int, cpus: float) -> None:
    """Start or update the deployment and return when its replicas are ready."""

    @serve.deployment(num_replicas=replicas, ray_actor_options={"num_cpus": cpus}, max_ongoing_requests=16)
    @serve.ingress(build_app(checkpoint, options))
    class Live:
        pass

    serve.start(http_options={"host": options.host, "port": options.port})
    serve.run(Live.bind(), name="wan-streamer", route_prefix="/")


def main(
    checkpoint: Annotated[str, typer.Argument(help="folder, hub id, or the bundled checkpoint")] = "wan-streamer-tiny",
    replicas: Annotated[int, typer.Option(min=1, help="one per device")] = 2,
    cpus: Annotated[float, typer.Option(help="CPUs that Ray reserves for a replica")] = 1.0,
    max_sessions: Annotated[int, typer.Option(min=1, help="per replica")] = 1,
    port: Annotated[int, typer.Option()] = 8080,
) -> None:
    """Serve until interrupted."""
    ray.init()
    deploy(checkpoint, ServeOptions(port=port, max_sessions=max_sessions), replicas, cpus)
    typer.echo(f"talk at http://localhost:{port}/")
    signal.pause()


if __name__ == "__main__":
    typer.run(main)
