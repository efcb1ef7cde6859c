/* From scores to chosen modules, as s3lora/selection.py does it; a test holds the two together.
   `scores` are [module, value] in natural order of the names; `sign` is 1 where a high score is
   the one to look at, −1 where a low one is. */

const ranked = (scores, sign) => [...scores].sort((a, b) => sign * (b[1] - a[1]) || a[0] - b[0]);

const median = (values) => {
  const sorted = Float64Array.from(values).sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

const robustZ = (scores) => {
  const found = new Map();
  if (!scores.length) return found;
  const huge = scores.some((score) => Math.abs(score[1]) > 1e300);  // as in selection.py
  const values = scores.map((score) => (huge ? score[1] / 4 : score[1]));
  const middle = median(values);
  const deviations = values.map((value) => value - middle);
  const spread = 1.4826 * median(deviations.map(Math.abs));
  if (spread === 0) return found;
  const most = Number.MAX_VALUE;
  const bounded = (z) => Math.min(most, Math.max(-most, z));
  scores.forEach((score, at) => found.set(score[0], bounded(deviations[at] / spread)));
  return found;
};

const POLICIES = {
  "top-k": (scores, sign, k) => ranked(scores, sign).slice(0, k).map((score) => score[0]),
  threshold: (scores, sign, limit) =>
    scores.filter((score) => sign * score[1] >= sign * limit).map((score) => score[0]),
  outliers: (scores, sign, limit) =>
    [...robustZ(scores)].filter((row) => sign * row[1] > limit).map((row) => row[0]),
};

const chosenBy = (kind, value, scores, sign) =>
  POLICIES[kind](scores, sign, value).sort((a, b) => a - b);
