"""The task tables (sections 4.2.2 and 4.4), row by row as they are printed."""

V, A = "video", "audio"

# How often; who is noised and learnt; who reads the other stream; whether both have one
# noise level; whose states enter the exchange detached.
TRAINING = {
  "single": (0.10, {V, A}, set(), False, set()),
  "a2v": (0.15, {V}, {V}, False, {A}),
  "v2a": (0.15, {A}, {A}, False, {V}),
  "joint": (0.60, {V, A}, {V, A}, True, set()),
}

# Who is made; who is given; who reads the other; whether the first frame is given.
SAMPLING = {
  "joint": ({V, A}, set(), {V, A}, False),
  "ti2av": ({V, A}, set(), {V, A}, True),
  "t2v": ({V}, set(), set(), False),
  "i2v": ({V}, set(), set(), True),
  "t2a": ({A}, set(), set(), False),
  "a2v": ({V}, {A}, {V}, False),
  "v2a": ({A}, {V}, {A}, False),
}
