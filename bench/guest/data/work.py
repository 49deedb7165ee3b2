"""Work for Python, a part chosen by name: what it prints is the same everywhere."""
import sys


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        if key < self.key:
            if self.left:
                self.left.insert(key)
            else:
                self.left = Node(key)
        elif self.right:
            self.right.insert(key)
        else:
            self.right = Node(key)

    def depth(self):
        return 1 + max(n.depth() if n else 0 for n in (self.left, self.right))


def objects():
    x, root = 12345, Node(1 << 30)
    for _ in range(12000):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        root.insert(x)
    return root.depth()


def strings():
    words = {}
    for i in range(60000):
        w = "w%d" % (i * 7919 % 5003)
        words[w] = words.get(w, 0) + len(w)
    text = " ".join(sorted(words))
    return len(text), text.upper().count("W1"), sum(words.values()), hash(tuple(sorted(words.values())))


def numbers():
    n, found = 2, 0
    sieve = bytearray(400000)
    while n < len(sieve):
        if not sieve[n]:
            found += 1
            for k in range(n * n, len(sieve), n):
                sieve[k] = 1
        n += 1
    return found, pow(3, 20011, 1 << 4000) % 1000003


def nbody():
    p = [(0.0, 0.0, 39.5), (4.84, -1.16, 0.04), (8.34, 4.12, 0.01)]
    v = [[0.0, 0.0], [0.6, 2.8], [-1.0, 1.8]]
    for _ in range(12000):
        for i, (xi, yi, mi) in enumerate(p):
            for k, (xk, yk, mk) in enumerate(p):
                if i != k:
                    dx, dy = xk - xi, yk - yi
                    f = 0.001 * mk / (dx * dx + dy * dy) ** 1.5
                    v[i][0] += f * dx
                    v[i][1] += f * dy
        p = [(x + 0.001 * vx, y + 0.001 * vy, m) for (x, y, m), (vx, vy) in zip(p, v)]
    return ["%.6f %.6f" % b[:2] for b in p]


print({"objects": objects, "strings": strings, "numbers": numbers, "nbody": nbody}[sys.argv[1]]())
