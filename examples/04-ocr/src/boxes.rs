//! Turns the detector's map into boxes of text lines, by the post-processing of differentiable binarization (Liao et al., 2020)
//! with the parameters of PP-OCRv4. It never reads the image itself.

use crate::geometry::{Rectangle, enclosing, hull, smallest};

/// The map counts as text above this: 0.3 of 255.
const TEXT: u8 = 77;
/// A box is kept where the map's mean in it is at least this: 0.5 of 255.
const BOX: f32 = 127.5;
/// Boxes are kept where their shorter side has this many pixels of the map, and two more once grown.
const SHORT: f32 = 3.0;
/// A detector learns shrunken text; a box grows by this times its area, divided by its circumference.
const GROWTH: f32 = 1.6;
/// Boxes kept; a page of text has some hundred.
const MOST: usize = 1000;
/// A box gets the page's tilt if its area with that tilt is at most this many times its area with its own tilt. A short word's
/// own tilt is noise, and lines with the page's tilt are cheap to cut.
const SLACK: f32 = 1.2;
/// A page is level where its long lines' level boxes have no more than this many times the area of tilted ones.
const LEVEL: f32 = 1.1;

/// What was found on a page.
#[derive(Debug)]
pub struct Boxes {
    /// The boxes in pixels of the map, in no useful order.
    pub boxes: Vec<Rectangle>,
    /// The tilt of most lines, in radians as in [`Rectangle::angle`].
    pub tilt: f32,
}

/// Finds boxes in a map of `width` columns, row by row; 255 is surely text.
pub fn find(map: &[u8], width: usize) -> Boxes {
    if width == 0 {
        return Boxes { boxes: Vec::new(), tilt: 0.0 };
    }
    let outlines: Vec<Vec<[i32; 2]>> = components(map, width).iter().map(|points| hull(points)).collect();
    let mut found: Vec<(Rectangle, &Vec<[i32; 2]>)> = outlines
        .iter()
        .map(|outline| (smallest(outline), outline))
        .filter(|(rectangle, _)| rectangle.short() >= SHORT)
        .collect();
    let tilt = tilt(&found);
    for (rectangle, outline) in &mut found {
        let turned = enclosing(outline, tilt);
        if turned.area() <= SLACK * rectangle.area() {
            *rectangle = turned;
        }
    }
    let boxes = found
        .into_iter()
        .filter(|(rectangle, _)| mean(map, width, rectangle) >= BOX)
        .map(|(rectangle, _)| rectangle.grown(rectangle.area() * GROWTH / (2.0 * (rectangle.along + rectangle.across))))
        .filter(|rectangle| rectangle.short() >= SHORT + 2.0)
        .take(MOST)
        .collect();
    Boxes { boxes, tilt }
}

/// The median tilt of the boxes that are at least 4 times as long as high (or high as long), weighted by their lengths.
fn tilt(found: &[(Rectangle, &Vec<[i32; 2]>)]) -> f32 {
    let length = |rectangle: &Rectangle| rectangle.along.max(rectangle.across);
    let is_long = |(rectangle, _): &&(Rectangle, &Vec<[i32; 2]>)| length(rectangle) >= 4.0 * rectangle.short();
    let mut long: Vec<_> = found.iter().filter(is_long).collect();
    long.sort_by(|a, b| a.0.angle.total_cmp(&b.0.angle));
    let half = long.iter().map(|(rectangle, _)| length(rectangle)).sum::<f32>() / 2.0;
    let mut passed = 0.0;
    let median = long.iter().find(|(rectangle, _)| {
        passed += length(rectangle);
        passed >= half
    });
    let tilt = median.map_or(0.0, |(rectangle, _)| rectangle.angle);
    let area = |angle: f32| long.iter().map(|(_, outline)| enclosing(outline, angle).area()).sum::<f32>();
    if area(0.0) <= LEVEL * area(tilt) { 0.0 } else { tilt }
}

/// A row's pixels from `start` to `end` (one past the last), and the component that they belong to.
struct Run {
    start: usize,
    end: usize,
    row: usize,
}

/// The points where rows of each 8-connected component of text start and end, sorted by y, then x. The text is first dilated
/// by one pixel to the right and down, as PP-OCR does; so a point's coordinates are those of pixels' edges, not centres.
fn components(map: &[u8], width: usize) -> Vec<Vec<[i32; 2]>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut parents: Vec<u32> = Vec::new();
    let (mut above, mut here): (Vec<[usize; 2]>, Vec<[usize; 2]>) = (Vec::new(), Vec::new());
    // The dilated runs of the row above are runs[previous..current].
    let (mut previous, mut current) = (0, 0);
    for (row, pixels) in map.chunks_exact(width).enumerate() {
        std::mem::swap(&mut above, &mut here);
        text_runs(pixels, &mut here);
        merge(&above, &here, row, &mut runs);
        parents.extend(current as u32..runs.len() as u32);
        let mut over = previous;
        for index in current..runs.len() {
            while over < current && runs[over].end < runs[index].start {
                over += 1;
            }
            let mut touching = over;
            while touching < current && runs[touching].start <= runs[index].end {
                join(&mut parents, touching as u32, index as u32);
                touching += 1;
            }
        }
        (previous, current) = (current, runs.len());
    }
    let mut places: Vec<u32> = vec![u32::MAX; runs.len()];
    let mut found: Vec<Vec<[i32; 2]>> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let root = root(&mut parents, index as u32) as usize;
        if places[root] == u32::MAX {
            places[root] = found.len() as u32;
            found.push(Vec::new());
        }
        let points = &mut found[places[root] as usize];
        let (start, last, row) = (run.start as i32, run.end as i32 - 1, run.row as i32);
        // Within a row only the outermost points can be on the hull.
        match points.last_mut() {
            Some(point) if point[1] == row => point[0] = last,
            _ => points.extend([[start, row], [last, row]]),
        }
    }
    found
}

/// The runs of text of one row, each one pixel longer to the right.
fn text_runs(pixels: &[u8], runs: &mut Vec<[usize; 2]>) {
    runs.clear();
    let mut from = 0;
    while let Some(start) = pixels[from..].iter().position(|pixel| *pixel >= TEXT).map(|offset| from + offset) {
        let end = pixels[start..].iter().position(|pixel| *pixel < TEXT).map_or(pixels.len(), |offset| start + offset);
        runs.push([start, (end + 1).min(pixels.len())]);
        from = end;
    }
}

/// Appends the union of two sorted lists of runs, as runs of `row`.
fn merge(a: &[[usize; 2]], b: &[[usize; 2]], row: usize, runs: &mut Vec<Run>) {
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    let first = runs.len();
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x[0] <= y[0] => a.next(),
            (Some(_), None) => a.next(),
            _ => b.next(),
        };
        let Some([start, end]) = next else { return };
        match runs[first..].last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => runs.push(Run { start, end, row }),
        }
    }
}

fn root(parents: &mut [u32], mut index: u32) -> u32 {
    while parents[index as usize] != index {
        parents[index as usize] = parents[parents[index as usize] as usize];
        index = parents[index as usize];
    }
    index
}

fn join(parents: &mut [u32], a: u32, b: u32) {
    let (a, b) = (root(parents, a), root(parents, b));
    parents[a.max(b) as usize] = a.min(b);
}

/// The map's mean over the pixels whose centres are in a rectangle; 0 where there are none.
fn mean(map: &[u8], width: usize, rectangle: &Rectangle) -> f32 {
    let corners = rectangle.corners();
    let height = map.len() / width;
    let top = corners.iter().map(|corner| corner[1]).fold(f32::MAX, f32::min).max(0.0) as usize;
    let bottom = corners.iter().map(|corner| corner[1]).fold(0.0, f32::max).ceil() as usize;
    let (mut sum, mut count) = (0u64, 0u64);
    for row in top..bottom.min(height) {
        let y = row as f32 + 0.5;
        let (mut left, mut right) = (f32::MAX, f32::MIN);
        for (a, b) in corners.iter().zip(corners.iter().cycle().skip(1)) {
            if (a[1] <= y) != (b[1] <= y) {
                let x = a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]);
                (left, right) = (left.min(x), right.max(x));
            }
        }
        let start = (left - 0.5).ceil().clamp(0.0, width as f32) as usize;
        let end = (right - 0.5).floor().clamp(-1.0, width as f32 - 1.0) as isize + 1;
        if let Some(pixels) = map.get(row * width + start..row * width + (end as usize).max(start)) {
            sum += pixels.iter().map(|pixel| u64::from(*pixel)).sum::<u64>();
            count += pixels.len() as u64;
        }
    }
    if count == 0 { 0.0 } else { (sum as f64 / count as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map with filled rectangles.
    fn map(width: usize, height: usize, boxes: &[Rectangle], value: u8) -> Vec<u8> {
        let mut map = vec![0; width * height];
        for (index, pixel) in map.iter_mut().enumerate() {
            let (x, y) = ((index % width) as f32 + 0.5, (index / width) as f32 + 0.5);
            for rectangle in boxes {
                let (sin, cos) = rectangle.angle.sin_cos();
                let (dx, dy) = (x - rectangle.centre[0], y - rectangle.centre[1]);
                let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
                if u.abs() <= rectangle.along / 2.0 && v.abs() <= rectangle.across / 2.0 {
                    *pixel = value;
                }
            }
        }
        map
    }

    fn level(x: f32, y: f32, along: f32, across: f32) -> Rectangle {
        Rectangle { centre: [x, y], along, across, angle: 0.0 }
    }

    #[test]
    fn a_level_line_grows_evenly_on_all_sides() {
        let found = find(&map(200, 100, &[level(100.0, 50.0, 120.0, 10.0)], 255), 200);
        let [only] = found.boxes[..] else { panic!("{found:?}") };
        // 120 * 10 * 1.6 / 260 = 7.38
        assert_eq!(only.centre, [100.0, 50.0]);
        assert!((only.along - 134.77).abs() < 0.01 && (only.across - 24.77).abs() < 0.01, "{only:?}");
        assert_eq!((only.angle, found.tilt), (0.0, 0.0));
    }

    #[test]
    fn short_words_take_the_tilt_of_the_long_lines() {
        let tilted = |x, y, along| Rectangle { centre: [x, y], along, across: 12.0, angle: 0.05 };
        let lines = [tilted(300.0, 60.0, 400.0), tilted(300.0, 100.0, 420.0), tilted(80.0, 140.0, 14.0)];
        let found = find(&map(600, 200, &lines, 230), 600);
        assert!((found.tilt - 0.05).abs() < 0.005, "{}", found.tilt);
        assert_eq!(found.boxes.len(), 3);
        for rectangle in &found.boxes {
            assert!((rectangle.angle - 0.05).abs() < 0.005, "{rectangle:?}");
        }
    }

    #[test]
    fn weak_and_tiny_spots_are_no_boxes() {
        for (spots, value) in [(level(50.0, 50.0, 60.0, 10.0), 100), (level(50.0, 50.0, 60.0, 1.0), 255)] {
            assert_eq!(find(&map(100, 100, &[spots], value), 100).boxes, []);
        }
        assert_eq!(find(&[], 100).boxes, []);
        assert_eq!(find(&[], 0).boxes, []);
        assert_eq!(find(&[255], 1).boxes, []);
    }

    #[test]
    fn components_join_at_corners_and_gaps_of_one_pixel() {
        let draw = |rows: [&str; 4]| -> usize {
            let map: Vec<u8> =
                rows.iter().flat_map(|row| row.bytes().map(|byte| if byte == b'#' { 255 } else { 0 })).collect();
            components(&map, rows[0].len()).len()
        };
        assert_eq!(draw(["#.......", "........", "........", ".......#"]), 2);
        assert_eq!(draw(["##....##", "##....##", "..####..", "..####.."]), 1);
        assert_eq!(draw(["##.##...", "........", "........", "........"]), 1);
        assert_eq!(draw(["##..##..", "........", "........", "........"]), 2);
        assert_eq!(draw(["##...##.", "........", "........", "........"]), 2);
        assert_eq!(draw(["#......#", "#......#", "#......#", "########"]), 1);
    }

    #[test]
    fn a_map_full_of_text_is_one_box() {
        let found = find(&vec![255; 64 * 32], 64);
        assert_eq!(found.boxes.len(), 1);
    }
}
