"""HakuRiver: a few Linux machines that share a directory behave like one computer."""

__version__ = "0.4.0"
