/* Which tokens of two texts the other one does not have: all that are not in a longest common subsequence. */

export function differing(a, b) {
  let same = 0;
  while (same < a.length && same < b.length && a[same] === b[same]) same++;
  const n = a.length - same;
  const m = b.length - same;
  const width = m + 1;
  const longest = new Uint16Array((n + 1) * width); // of a and b from i and j on
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      longest[i * width + j] =
        a[same + i] === b[same + j] ? longest[(i + 1) * width + j + 1] + 1 : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const isIn = { a: new Array(a.length).fill(false), b: new Array(b.length).fill(false), same };
  let i = 0;
  let j = 0;
  while (i < n || j < m)
    if (i < n && j < m && a[same + i] === b[same + j]) i++, j++;
    else if (j === m || (i < n && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) isIn.a[same + i++] = true;
    else isIn.b[same + j++] = true;
  return isIn;
}
