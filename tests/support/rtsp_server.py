"""A real RTSP server (GStreamer's) as a process of the system's Python, with a moving picture."""

import signal
import subprocess

from tests.support.http_streams import free_port
from tests.support.requirements import require_rtsp_server

SERVER = """
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true ! videoscale"
    " ! capsfilter name=size caps=video/x-raw,width=160,height=120,framerate=20/1"
    " ! vp8enc deadline=1 keyframe-max-dist=10 ! rtpvp8pay name=pay0 pt=96 )"
)
factory.set_shared(True)
medias = []
factory.connect("media-configure", lambda _, media: medias.append(media))


def resize(source, _):
    width, height = source.readline().split()
    caps = Gst.Caps.from_string(f"video/x-raw,width={width},height={height},framerate=20/1")
    for media in medias:
        media.get_element().get_by_name("size").set_property("caps", caps)
    return True


GLib.io_add_watch(sys.stdin, GLib.IO_IN, resize)
server.get_mount_points().add_factory("/live", factory)
assert server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


class RtspServer:
    """Can be killed and started again on the same port."""

    def __init__(self) -> None:
        self._python = require_rtsp_server()
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._python, "-c", SERVER, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def resize(self, width: int, height: int) -> None:
        """Go on with frames of another size, in the same stream."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{width} {height}\n".encode())
        self._process.stdin.flush()

    def pause(self) -> None:
        """Freeze it: the connection stays, nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None
