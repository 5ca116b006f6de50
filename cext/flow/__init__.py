"""Which flow is this frame?"""
