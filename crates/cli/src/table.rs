//! Columns aligned with spaces, as `kubectl` and `istioctl` print them.

/// The space between columns (that of `istioctl`).
const GAP: usize = 5;

/// Lays out `rows` below `header`. The last cell of a row is not padded.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let lines = || std::iter::once(&header).chain(rows);
    let width = |column: usize| {
        lines().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0) + GAP
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in lines() {
        for (index, cell) in row.iter().enumerate() {
            if index + 1 == row.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}", width = widths[index]));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "long cell", "x"], ["bb", "", ""]].map(|row| row.map(str::to_owned).to_vec());
        let expect = "N      SECOND        LAST\na      long cell     x\nbb                   \n";
        assert_eq!(render(&["N", "SECOND", "LAST"], &rows), expect);
    }
}
