//! Reading order: rows from top to bottom, boxes in a row from left to right. It never looks for columns.

use crate::geometry::Rectangle;

/// The boxes' indices, row by row. Rows run along `tilt` (radians); boxes are in one row where their middles are less than half
/// a line height apart.
pub fn rows(boxes: &[Rectangle], tilt: f32) -> Vec<Vec<usize>> {
    let (sin, cos) = tilt.sin_cos();
    let place = |index: &usize| {
        let [x, y] = boxes[*index].centre;
        [x * cos + y * sin, y * cos - x * sin]
    };
    let mut sorted: Vec<usize> = (0..boxes.len()).collect();
    sorted.sort_by(|a, b| place(a)[1].total_cmp(&place(b)[1]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for index in sorted {
        let (middle, height) = (place(&index)[1], boxes[index].across);
        match rows.last_mut() {
            Some(row)
                if middle - mean(row, |index| place(index)[1])
                    < 0.5 * height.min(mean(row, |index| boxes[*index].across)) =>
            {
                row.push(index);
            }
            _ => rows.push(vec![index]),
        }
    }
    for row in &mut rows {
        row.sort_by(|a, b| place(a)[0].total_cmp(&place(b)[0]));
    }
    rows
}

fn mean(row: &[usize], value: impl Fn(&usize) -> f32) -> f32 {
    row.iter().map(value).sum::<f32>() / row.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(x: f32, y: f32) -> Rectangle {
        Rectangle { centre: [x, y], along: 60.0, across: 20.0, angle: 0.0 }
    }

    #[test]
    fn rows_are_read_from_left_to_right_and_then_down() {
        let words = [word(300.0, 52.0), word(100.0, 48.0), word(200.0, 90.0), word(100.0, 88.0), word(100.0, 10.0)];
        assert_eq!(rows(&words, 0.0), [vec![4], vec![1, 0], vec![3, 2]]);
        assert!(rows(&[], 0.0).is_empty());
    }

    #[test]
    fn rows_follow_the_tilt() {
        // 3 degrees over 900 pixels is more than a line's height.
        let tilt = 3f32.to_radians();
        let at = |x: f32, y: f32| word(x, y + x * tilt.tan());
        let words = [at(900.0, 100.0), at(50.0, 100.0), at(900.0, 130.0), at(50.0, 130.0)];
        assert_eq!(rows(&words, tilt), [vec![1, 0], vec![3, 2]]);
    }

    #[test]
    fn a_page_upside_down_is_read_from_its_own_top() {
        let words = [word(100.0, 50.0), word(300.0, 50.0), word(100.0, 90.0)];
        assert_eq!(rows(&words, std::f32::consts::PI), [vec![2], vec![1, 0]]);
    }
}
