// Outlines of a mask in one plane, drawn as thin lines over the viewer's picture.
"use strict";
/** Sides of a cell (between four voxel centers) that the outline joins, by which corners are in. */
const CELL_LINES = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 0], [1, 2]], [[0, 2]], [[3, 2]],
  [[2, 3]], [[2, 0]], [[0, 1], [2, 3]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], [],
];
const SIDE_MIDDLES = [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]];
/**
 * Line pieces [x0, y0, x1, y1] in units of voxel centers around what `inside(x, y)` holds;
 * beyond width and height nothing is in.
 */
function outlinePieces(inside, width, height) {
  const pieces = [];
  const has = (x, y) => Number(x >= 0 && y >= 0 && x < width && y < height && inside(x, y));
  for (let y = -1; y < height; y += 1) {
    let left = has(-1, y) | (has(-1, y + 1) << 3);
    for (let x = -1; x < width; x += 1) {
      const right = has(x + 1, y) | (has(x + 1, y + 1) << 3);
      const cell = (left & 1) | ((right & 1) << 1) | (((right >> 3) & 1) << 2) | (left & 8);
      for (const [from, to] of CELL_LINES[cell]) {
        const [[a, b], [c, d]] = [SIDE_MIDDLES[from], SIDE_MIDDLES[to]];
        pieces.push([x + a, y + b, x + c, y + d]);
      }
      left = right;
    }
  }
  return pieces;
}
