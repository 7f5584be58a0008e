// The picture as objects that can be moved: plain numbers, no drawing on the screen.

const LIT = 60; // a pixel at least this bright can be got hold of
const REACH = 2.5; // from this far, in pixels
const PEN = 1.3; // radius of the pen's full brightness, in pixels of the picture at 50 across

/** A picture of bytes from what the server sends. */
export function decodePicture({ width, height, channels, data }) {
  const text = atob(data);
  const pixels = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) pixels[i] = text.charCodeAt(i);
  return { width, height, channels, pixels };
}

/** Draw a picture of bytes on a canvas element, which takes its size. */
export function paint(canvas, { width, height, channels, pixels }) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Objects on a black or given backdrop; grey objects, at whole pixels, added as light adds. */
export class Scene {
  constructor(width, height, channels) {
    Object.assign(this, { width, height, channels });
    this.clear();
  }

  clear() {
    this.items = [];
    this.backdrop = null;
  }

  get empty() {
    return !this.items.length && !this.backdrop;
  }

  render() {
    const { width, height, channels } = this;
    const sum = new Uint16Array(width * height * channels);
    if (this.backdrop) sum.set(this.backdrop.pixels);
    for (const item of this.items) {
      for (let y = 0; y < item.height; y++) {
        const row = item.y + y;
        if (row < 0 || row >= height) continue;
        for (let x = 0; x < item.width; x++) {
          const column = item.x + x;
          if (column < 0 || column >= width) continue;
          const light = item.pixels[y * item.width + x];
          for (let c = 0; c < channels; c++) sum[(row * width + column) * channels + c] += light;
        }
      }
    }
    return { width, height, channels, pixels: Uint8Array.from(sum, (v) => Math.min(v, 255)) };
  }

  /** Put an item's middle at a point, as near as the edges allow. */
  place(item, x, y) {
    item.x = clamp(Math.round(x - item.width / 2), this.width - item.width);
    item.y = clamp(Math.round(y - item.height / 2), this.height - item.height);
  }

  /** Put an item where it covers least of the others, of some random places. */
  placeFreely(item) {
    const others = { ...this.render() };
    let least = Infinity;
    for (let trial = 0; trial < 60 && least > 0; trial++) {
      const x = Math.floor(Math.random() * (this.width - item.width + 1));
      const y = Math.floor(Math.random() * (this.height - item.height + 1));
      let covered = 0;
      for (let i = 0; i < item.pixels.length; i++) {
        if (!item.pixels[i]) continue;
        // Neighbours count as well: digits that touch look like one.
        for (const [down, right] of [[0, 0], [2, 0], [-2, 0], [0, 2], [0, -2]]) {
          const row = y + Math.floor(i / item.width) + down;
          const column = x + (i % item.width) + right;
          if (row < 0 || column < 0 || row >= this.height || column >= this.width) continue;
          covered += others.pixels[(row * this.width + column) * this.channels] > 0;
        }
      }
      if (covered < least) {
        least = covered;
        Object.assign(item, { x, y });
      }
    }
  }

  /** The item at a point, the uppermost of the nearest; null if there is none within reach. */
  itemAt(x, y) {
    let found = null;
    let nearest = REACH;
    for (const item of this.items) {
      for (let i = 0; i < item.pixels.length; i++) {
        if (item.pixels[i] < LIT) continue;
        const dx = item.x + (i % item.width) + 0.5 - x;
        const dy = item.y + Math.floor(i / item.width) + 0.5 - y;
        const distance = Math.hypot(dx, dy);
        if (distance <= nearest) {
          nearest = distance;
          found = item;
        }
      }
    }
    return found;
  }

  add(item) {
    if (!this.items.includes(item)) this.items.push(item);
  }

  remove(item) {
    this.items = this.items.filter((other) => other !== item);
  }

  /** A stroke of the pen through some points, joined to the strokes that it touches. */
  draw(points) {
    const item = this.stroke(points);
    const touched = this.items.filter((other) => other.drawn && touch(item, other));
    for (const other of touched) this.remove(other);
    const joined = touched.reduce(join, item);
    this.add(joined);
    return joined;
  }

  /** What the pen leaves along some points. */
  stroke(points) {
    const radius = (PEN * Math.min(this.width, this.height)) / 50;
    const margin = Math.ceil(radius + 1);
    const columns = points.map((p) => p.x);
    const rows = points.map((p) => p.y);
    const left = Math.max(Math.floor(Math.min(...columns)) - margin, 0);
    const top = Math.max(Math.floor(Math.min(...rows)) - margin, 0);
    const right = Math.min(Math.ceil(Math.max(...columns)) + margin, this.width);
    const bottom = Math.min(Math.ceil(Math.max(...rows)) + margin, this.height);
    const [width, height] = [Math.max(right - left, 1), Math.max(bottom - top, 1)];
    const pixels = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const distance = distanceToPath(left + x + 0.5, top + y + 0.5, points);
        pixels[y * width + x] = Math.round(255 * Math.min(1, Math.max(0, radius + 0.5 - distance)));
      }
    }
    return { x: left, y: top, width, height, pixels, drawn: true };
  }
}

function clamp(value, most) {
  return Math.max(0, Math.min(value, Math.max(most, 0)));
}

function distanceToPath(x, y, points) {
  let least = Math.hypot(points[0].x - x, points[0].y - y);
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]];
    const [dx, dy] = [b.x - a.x, b.y - a.y];
    const length = dx * dx + dy * dy;
    const along = length ? Math.max(0, Math.min(1, ((x - a.x) * dx + (y - a.y) * dy) / length)) : 0;
    least = Math.min(least, Math.hypot(a.x + along * dx - x, a.y + along * dy - y));
  }
  return least;
}

function lightAt(item, row, column) {
  const [y, x] = [row - item.y, column - item.x];
  return y < 0 || x < 0 || y >= item.height || x >= item.width ? 0 : item.pixels[y * item.width + x];
}

function touch(a, b) {
  for (let i = 0; i < a.pixels.length; i++) {
    const [row, column] = [a.y + Math.floor(i / a.width), a.x + (i % a.width)];
    if (a.pixels[i] && lightAt(b, row, column)) return true;
  }
  return false;
}

function join(a, b) {
  const [x, y] = [Math.min(a.x, b.x), Math.min(a.y, b.y)];
  const width = Math.max(a.x + a.width, b.x + b.width) - x;
  const height = Math.max(a.y + a.height, b.y + b.height) - y;
  const pixels = new Uint8Array(width * height);
  for (let i = 0; i < pixels.length; i++) {
    const [row, column] = [y + Math.floor(i / width), x + (i % width)];
    pixels[i] = Math.max(lightAt(a, row, column), lightAt(b, row, column));
  }
  return { x, y, width, height, pixels, drawn: true };
}
