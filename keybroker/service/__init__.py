"""Use cases: policy, then model, then store and audit. No HTTP, no argv, no screen.

Each function of ``boot``, ``provisioning``, ``enrolment`` and ``inventory`` takes the ``Broker`` first
and, where somebody asks over the network, the ``Peer`` second, who is let in or not before anything is
done, on every call.
"""
