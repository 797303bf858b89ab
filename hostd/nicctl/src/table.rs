//! Columns that line up.

/// Between two columns.
const GAP: &str = "  ";

/// `header` and `rows` as lines, each column as wide as its widest cell, the last one ragged.
pub(crate) fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> String {
    let header = header.map(str::to_owned);
    let lines = || std::iter::once(&header).chain(rows);
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        lines()
            .map(|cells| cells[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    lines().map(|cells| line(cells, &widths)).collect()
}

/// Names and values, the values lined up.
pub(crate) fn list(entries: &[(&str, String)]) -> String {
    let rows = entries
        .iter()
        .map(|(name, value)| [format!("{name}:"), value.clone()])
        .collect::<Vec<_>>();
    let width = rows.iter().map(|[name, _]| name.len()).max().unwrap_or(0);
    rows.iter().map(|cells| line(cells, &[width, 0])).collect()
}

fn line<const COLUMNS: usize>(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let padded = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect::<Vec<_>>()
        .join(GAP);
    format!("{}\n", padded.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "1", "x"], ["long", "22", ""]].map(|row| row.map(str::to_owned));

        assert_eq!(
            table(["ID", "NUMBER", "NOTE"], &rows),
            "ID    NUMBER  NOTE\n\
             a     1       x\n\
             long  22\n"
        );
    }

    #[test]
    fn without_rows_the_header_stands_alone() {
        assert_eq!(table(["ID", "STATE"], &[]), "ID  STATE\n");
    }
}
