"""HTTP and nothing else: the gate (Tornado) lets requests in, the apps (Flask) parse, ask and reply."""
