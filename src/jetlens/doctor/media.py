"""Pictures and video: OpenCV, PyAV, GStreamer with its Python binding and its plugins for a Jetson's camera and codecs."""

from __future__ import annotations

from collections.abc import Iterator

from jetlens.doctor.check import Check, Host
from jetlens.doctor.probes import ProbeError, probe
from jetlens.media.live.gstreamer import GSTREAMER_REMEDY
from jetlens.registry import installed

__all__ = ["decoder", "encoder", "gstreamer", "opencv", "pyav"]

_INSPECT_TIMEOUT_S = 20.0
_ELEMENTS = {
    "nvarguscamerasrc": ("CSI cameras", "sudo apt install nvidia-l4t-gstreamer nvidia-l4t-camera"),
    "nvv4l2decoder": ("decoding video in hardware", "sudo apt install nvidia-l4t-gstreamer"),
}
_NO_ENCODER = "Orin Nano"
"""The board whose chip has no video encoder."""


def opencv(host: Host) -> Check:
    """OpenCV, which reads V4L2 cameras, resizes and shows windows."""
    name = "OpenCV"
    if not installed("cv2"):
        remedy = "sudo apt install python3-opencv (JetPack's)" if host.facts.jetson else "pip install 'jetlens[cpu]'"
        return Check(name, False, "not installed", "no V4L2 cameras and no linear resizing", remedy)
    try:
        facts = probe("cv2")
    except ProbeError as error:
        remedy = "reinstall it: pip install --force-reinstall opencv-python-headless"
        return Check(name, False, f"does not work: {error}", "no V4L2 cameras and no linear resizing", remedy)
    return Check(name, True, facts["version"], "V4L2 cameras, linear resizing, and videos where PyAV is absent")


def pyav(host: Host) -> Check:
    """PyAV, which writes H.264."""
    name = "PyAV"
    if not installed("av"):
        return Check(name, False, "not installed", "videos are written as mp4v by OpenCV, not as H.264", "pip install 'jetlens[video]'")
    try:
        facts = probe("av")
    except ProbeError as error:
        return Check(name, False, f"does not work: {error}", "videos are written as mp4v", "pip install --force-reinstall av")
    means = "videos are written as H.264" if facts["h264"] else "this build has no libx264: videos are written as mp4v"
    return Check(name, facts["h264"], facts["version"], means, "" if facts["h264"] else "pip install --force-reinstall av")


def gstreamer(host: Host) -> Iterator[Check]:
    """GStreamer from Python, by which CSI cameras are read, and the plugins of a Jetson's camera and decoder."""
    if host.facts.jetson is None:
        return
    yield _binding()
    if host.program("gst-inspect-1.0") is None:
        yield Check(
            "GStreamer", False, "gst-inspect-1.0 is not installed", "plugins cannot be looked at", "sudo apt install gstreamer1.0-tools"
        )
        return
    for element, (use, remedy) in _ELEMENTS.items():
        there = _element(host, element)
        means = f"for {use}" if there else f"no {use}"
        yield Check(f"GStreamer {element}", there, "found" if there else "not found", means, "" if there else remedy)


def encoder(host: Host) -> Check:
    """Whether video is encoded in hardware."""
    name = "NVENC"
    jetson = host.facts.jetson
    if jetson is not None and _NO_ENCODER in jetson.model:
        return Check(name, False, "this chip has none", "video is encoded by the processor, which takes its time", applies=False)
    if jetson is not None:
        there = _element(host, "nvv4l2h264enc")
        means = "GStreamer pipelines encode in hardware; jetlens itself writes with the processor"
        absent = "pipelines encode with the processor"
        remedy = "" if there else "sudo apt install nvidia-l4t-gstreamer"
        return Check(name, there, "nvv4l2h264enc" if there else "nvv4l2h264enc not found", means if there else absent, remedy)
    if not host.facts.gpus:
        return Check(name, False, "no NVIDIA GPU", "video is encoded by the processor", applies=False)
    try:
        there = installed("av") and bool(probe("av")["nvenc"])
    except ProbeError:
        there = False
    found = "PyAV has h264_nvenc" if there else "no encoder that PyAV could use"
    return Check(name, there, found, "jetlens writes video with the processor either way", applies=False)


def decoder(host: Host) -> Check:
    """Whether videos and RTSP are decoded in hardware: each decoder is given a small H.264 video, which it must decode as software does."""
    name = "video decoder"
    if not host.has_gpu:
        return Check(name, False, "no NVIDIA GPU", "video is decoded by the processor", applies=False)
    if not installed("av"):
        return Check(name, False, "PyAV is not installed", "no RTSP, and videos through OpenCV", "pip install 'jetlens[video]'")
    try:
        answers = probe("decoders")
    except ProbeError as error:
        return Check(name, False, f"does not work: {error}", "if a run ends so too, #decoder=av behind the video keeps to the processor")
    works = [row for row, why in answers.items() if not why]
    if works:
        return Check(name, True, works[0], "H.264 and H.265 are decoded in hardware")
    usual = "nvv4l2decoder" if host.facts.jetson else "nvdec"
    remedy = "" if host.facts.jetson else "in a container set NVIDIA_DRIVER_CAPABILITIES=all: NVDEC is not among the usual ones"
    return Check(name, False, f"{usual}: {answers[usual]}", "video is decoded by the processor, which takes its time", remedy)


def _binding() -> Check:
    name = "GStreamer in Python"
    try:
        return Check(name, True, probe("gi")["version"], "CSI cameras can be read where nvarguscamerasrc is there")
    except ProbeError as error:
        return Check(name, False, str(error), "CSI cameras cannot be read", GSTREAMER_REMEDY)


def _element(host: Host, name: str) -> bool:
    """Whether GStreamer knows an element: gst-inspect prints its factory then, and a complaint otherwise."""
    return "Factory Details" in host.ask("gst-inspect-1.0", name, timeout_s=_INSPECT_TIMEOUT_S)
