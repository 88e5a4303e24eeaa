"""What the broker and the agent say to each other, and all of the broker that the agent may import.

Nothing here opens a file, a socket or a process, and nothing here imports a package from outside
the standard library: the agent reads these modules on the way to a booting disk.
"""
