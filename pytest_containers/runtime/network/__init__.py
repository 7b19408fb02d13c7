"""The run's own network: bridges, veth pairs, addresses, names and the firewall (floor 1).

Everything here lives in one network namespace, the switch, and is gone when that is.
"""

__all__: list[str] = []
