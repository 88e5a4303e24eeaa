"""Use cases: policy, then model, then store and audit. No HTTP, no argv, no screen.

Each function of ``boot``, ``provisioning``, ``enrolment`` and ``inventory`` takes the ``Broker`` first and, where
somebody asks over the network, the ``Peer`` second; it authorises the peer before it does anything, on every call.
"""
