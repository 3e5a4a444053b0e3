"""Attendants: one process for each engine (Docker, systemd) that a keeper has tasks in.

An engine holds its tasks itself; the attendant, a child of the keeper, asks it to start, stop and pause them, copies
their output to the node's disk and tells the keeper what becomes of them. It keeps nothing: if it dies, the keeper
starts another, which finds everything in the engine by name. The keeper itself never waits for an engine.
"""
