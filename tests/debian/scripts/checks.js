// Hot enough for every tier of the JIT; types that change make it throw code away.
const out = [];
function add(a, b) { return a + b; }
let s = 0; for (let i = 0; i < 3e6; i++) s = add(s, i % 7); out.push(s);
let t = ""; for (let i = 0; i < 2000; i++) t = add(t, String(i % 10)); out.push(t.length);
let f = 0; for (let i = 1; i < 1e6; i++) f = add(f, 1 / i); out.push(f.toFixed(9));
class P { constructor(x, y) { this.x = x; this.y = y; } len() { return this.x * this.x + this.y * this.y; } }
let l = 0; for (let i = 0; i < 1e6; i++) l = (l + new P(i & 15, i & 7).len()) | 0; out.push(l);
const a = new Float64Array(1 << 16).map((_, i) => Math.fround(i * 0.5)); let g = 0;
for (let r = 0; r < 20; r++) for (let i = 0; i < a.length; i++) g += a[i]; out.push(g);
const u = new Uint32Array(1 << 12); for (let i = 0, x = 1; i < 1e6; i++) { x = Math.imul(x, 1664525) + 1013904223 >>> 0; u[x >>> 20]++; }
out.push(u.reduce((p, c) => Math.imul(p, 31) + c | 0, 0));
let b = 1n; for (let i = 1n; i <= 60n; i++) b *= i; out.push(String(b));
out.push("the cat sat on the mat".replace(/(\w)at/g, (m, c) => c.toUpperCase() + "AT"));
const m = new Map(); for (let i = 0; i < 2e5; i++) m.set("k" + i % 5003, (m.get("k" + i % 5003) || 0) + i); out.push(m.size, m.get("k42"));
for (const src of ["x*2", "x+'!'", "x/3|0"]) { const h = new Function("x", "return " + src); let r; for (let i = 0; i < 50000; i++) r = h(i); out.push(r); }
const sorted = Array.from({ length: 50000 }, (_, i) => i * 7919 % 50021).sort((p, q) => p - q); out.push(sorted[25000]);
out.push(require("crypto").createHash("sha256").update("a".repeat(1e6)).digest("hex").slice(0, 16));
// add() in WebAssembly, called often.
const w = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11])));
let v = 0; for (let i = 0; i < 1e6; i++) v = w.exports.add(v, i); out.push(v);
const { Worker } = require("worker_threads");
let left = 2; for (let k = 0; k < 2; k++) new Worker("let s=0;for(let i=0;i<2e6;i++)s=(s+i*i)%1000003;require('worker_threads').parentPort.postMessage(s)", { eval: true })
	.on("message", (r) => { out.push(r); if (!--left) console.log(out.join(" ")); });
