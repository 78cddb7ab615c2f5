use crate::FitError;

/// Rows of equal length, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// `values` is `rows x columns`, row after row.
    ///
    /// # Errors
    /// [`FitError::Shape`] when `columns` is 0 or does not divide the number of values.
    pub fn new(columns: usize, values: Vec<f64>) -> Result<Self, FitError> {
        if columns == 0 || !values.len().is_multiple_of(columns) {
            return Err(FitError::Shape {
                columns,
                values: values.len(),
            });
        }
        Ok(Self { columns, values })
    }

    /// A view of all rows.
    pub fn view(&self) -> MatRef<'_> {
        MatRef {
            columns: self.columns,
            values: &self.values,
        }
    }

    /// A copy of some rows; numbers beyond the last row are left out.
    pub fn select(&self, rows: &[usize]) -> Self {
        let view = self.view();
        Self {
            columns: self.columns,
            values: rows.iter().flat_map(|&r| view.row(r)).copied().collect(),
        }
    }

    /// All values, row after row, to be changed in place.
    pub fn values_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }
}

/// Rows of equal length, borrowed: `rows x columns`, row-major.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    columns: usize,
    values: &'a [f64],
}

impl<'a> MatRef<'a> {
    /// Of a slice of `rows x columns` values.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub fn new(columns: usize, values: &'a [f64]) -> Result<Self, FitError> {
        if columns == 0 || !values.len().is_multiple_of(columns) {
            return Err(FitError::Shape {
                columns,
                values: values.len(),
            });
        }
        Ok(Self { columns, values })
    }

    /// Numbers in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    /// One row; empty when there is none of that number.
    pub fn row(&self, index: usize) -> &'a [f64] {
        let start = index * self.columns;
        self.values.get(start..start + self.columns).unwrap_or(&[])
    }

    /// Row after row.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [f64]> {
        self.values.chunks_exact(self.columns.max(1))
    }

    /// All values.
    pub fn values(&self) -> &'a [f64] {
        self.values
    }

    /// An owned copy.
    pub fn to_matrix(&self) -> Matrix {
        Matrix {
            columns: self.columns,
            values: self.values.to_vec(),
        }
    }

    /// Checks what every fit needs.
    pub(crate) fn check(&self, needed: usize) -> Result<(), FitError> {
        if self.rows() < needed {
            return Err(FitError::TooFew {
                rows: self.rows(),
                needed,
            });
        }
        match self.values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(FitError::NotFinite {
                row: i / self.columns,
                column: i % self.columns,
            }),
            None => Ok(()),
        }
    }
}
