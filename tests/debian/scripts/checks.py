import hashlib, json, math, re, struct, subprocess, threading, zlib
data = bytes(i * 7 & 255 for i in range(1 << 18))
print(hashlib.sha256(data).hexdigest()[:16], hashlib.md5(data).hexdigest()[:16], zlib.crc32(data))
print(zlib.decompress(zlib.compress(data)) == data, pow(7, 1 << 12, 10 ** 40), math.factorial(60))
print("%.12f %.12f %r" % (math.sin(1e3), math.gamma(5.5), sum(x * 0.1 for x in range(1000))))
print(json.loads(json.dumps({"a": [1, 2.5, None, "\u00e9"]})), struct.unpack("<d", struct.pack("<d", 1e-310)))
print(re.sub(r"(\w+) (\w+)", r"\2 \1", "hello world"), len(re.findall(r"[aeiou]{2}", "queue audio" * 99)))
hits, lock = [], threading.Lock()
def work(n):
    for i in range(2000):
        with lock:
            hits.append(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(hits), sorted(set(hits)))
print(subprocess.run(["sh", "-c", "echo from a child; exit 3"], capture_output=True, text=True))
d = {}
for i in range(200000):
    d[i * 2654435761 % 1000003] = i
print(len(d), sum(d.values()), sum(sorted(d)[:1000]))
