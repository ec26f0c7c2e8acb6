"""What every MQTT connection of ours wants of its socket."""

import socket

import paho.mqtt.client as paho


def set_no_delay(_client: paho.Client, _userdata: object, opened: object) -> None:
    """Send small packets at once; paho's `on_socket_open`.

    With Nagle's algorithm a QoS 1 round trip takes 83 ms instead of 0.5 ms (measured on loopback).
    """
    if isinstance(opened, socket.socket):  # TLS's is one
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
