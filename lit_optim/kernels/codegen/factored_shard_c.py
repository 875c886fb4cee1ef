"""Generates the C text of Adafactor's step for the shard of a matrix, in three passes.

What happens between them needs other processes: see `optimizers.base.factored_shards`.
"""

from __future__ import annotations

from lit_optim.kernels.codegen.c import C_TYPES
from lit_optim.kernels.codegen.c_prelude import PRELUDE
from lit_optim.kernels.codegen.factored_c import READ, WRITE

#: The passes: sums of squares of p, of rows and of columns; of the direction; the update.
MOMENTS, DIRECTION, MOVE = range(3)
#: The numbers of a call, in the order of `h`.
NUMBERS = ("most", "a", "shrink", "step", "average")

BODY = """
typedef {real} Real;

/* `batch` matrices of `rows` x `columns`, with 1 / sqrt of their row and column means. A part is
   `each` rows or, of several matrices, `each` matrices; it has scratch memory for one sum and, of
   a single matrix, for the sums of its columns. What is added up in which order depends on shapes
   alone: any number of threads gives the same bits. */
typedef struct {{
    {p} *p;
    const {g} *g;
    Real *m;
    const Real *of_rows, *of_columns;
    double *row_sums, *column_sums, *scratch, *sum;
    int64_t batch, rows, columns, each;
}} Shard;

enum {{ MOST, A, SHRINK, STEP, AVERAGE, NUMBERS }};

static inline Real square(Real x) {{ return x * x; }}

static inline double wide_square(double x) {{ return x * x; }}

static double add_row(const Shard *x, int64_t row, double *restrict columns) {{
    const int64_t n = x->columns;
    const {g} *restrict gs = x->g + row * n;
    const {p} *restrict ps = x->p + row * n;
    double total = 0, size = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {{
        const int64_t end = start + BLOCK < n ? start + BLOCK : n;
        Real g2 = 0, p2 = 0;
#pragma omp simd reduction(+:g2, p2)
        for (int64_t j = start; j < end; ++j) {{
            g2 += square({read_g}(gs[j]));
            p2 += square({read_p}(ps[j]));
        }}
        if (g2 + p2 < INFINITY) {{
            total += g2;
            size += p2;
            for (int64_t j = start; j < end; ++j) columns[j] += square({read_g}(gs[j]));
        }} else for (int64_t j = start; j < end; ++j) {{  /* squares of floats may overflow */
            const double s = wide_square({read_g}(gs[j]));
            total += s;
            size += wide_square({read_p}(ps[j]));
            columns[j] += s;
        }}
    }}
    x->row_sums[row] = total;
    return size;
}}

static double direction_of_row(const Shard *x, const double *h, int64_t row,
                               const Real *restrict of_columns) {{
    const {g} *restrict gs = x->g + row * x->columns;
    const Real of_row = x->of_rows[row], most = h[MOST];
    double total = 0;
    for (int64_t start = 0; start < x->columns; start += BLOCK) {{
        const int64_t end = start + BLOCK < x->columns ? start + BLOCK : x->columns;
        Real u2 = 0;
#pragma omp simd reduction(+:u2)
        for (int64_t j = start; j < end; ++j) {{
            const Real inverse = of_row * of_columns[j];
            u2 += square({read_g}(gs[j]) * (inverse > most ? most : inverse));
        }}
        if (u2 < INFINITY) total += u2;
        else for (int64_t j = start; j < end; ++j) {{
            const Real inverse = of_row * of_columns[j];
            total += wide_square({read_g}(gs[j]) * (inverse > most ? most : inverse));
        }}
    }}
    return total;
}}

static void move_row(const Shard *x, const double *h, int64_t row,
                     const Real *restrict of_columns) {{
    const int64_t n = x->columns;
    const Real of_row = x->of_rows[row], most = h[MOST], a = h[A], shrink = h[SHRINK];
    const Real step = h[STEP], average = h[AVERAGE], keep = 1 - h[AVERAGE];
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {{
        const int64_t i = row * n + j;
        const Real inverse = of_row * of_columns[j], p = {read_p}(x->p[i]);
        Real w = step * ({read_g}(x->g[i]) * (inverse > most ? most : inverse));
        if (x->m) {{
            const Real m = x->m[i];
            w = x->m[i] = average < (Real)0.5 ? m + average * (w - m) : w - keep * (w - m);
        }}
        x->p[i] = {write_p}(a * p - (shrink * p + w));
    }}
}}

static void make_part(const Shard *x, const double *h, int64_t pass, int64_t q) {{
    const int64_t n = x->columns, units = x->batch > 1 ? x->batch : x->rows;
    const int64_t from = q * x->each, to = from + x->each < units ? from + x->each : units;
    const int64_t rows = x->batch > 1 ? x->rows : 1;
    double *sums = x->scratch + q * (1 + n), total = 0;
    if (pass == 0 && x->batch == 1) memset(sums + 1, 0, 8 * n);
    for (int64_t unit = from; unit < to; ++unit) {{
        double *columns = x->batch > 1 ? x->column_sums + unit * n : sums + 1;
        const Real *of_columns = x->of_columns + (x->batch > 1 ? unit * n : 0);
        if (pass == 0 && x->batch > 1) memset(columns, 0, 8 * n);
        for (int64_t row = unit * rows; row < (unit + 1) * rows; ++row) {{
            if (pass == 0) total += add_row(x, row, columns);
            else if (pass == 1) total += direction_of_row(x, h, row, of_columns);
            else move_row(x, h, row, of_columns);
        }}
    }}
    sums[0] = total;
}}

void step(const Shard *x, const double *h, int64_t pass, int threads) {{
    const int64_t n = x->columns, units = x->batch > 1 ? x->batch : x->rows;
    const int64_t parts = (units + x->each - 1) / x->each;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
#endif
    for (int64_t q = 0; q < parts; ++q) make_part(x, h, pass, q);
    double total = 0;
    for (int64_t q = 0; q < parts; ++q) total += x->scratch[q * (1 + n)];
    *x->sum = total;
    if (pass == 0 && x->batch == 1) {{
        memset(x->column_sums, 0, 8 * n);
        for (int64_t q = 0; q < parts; ++q)
            for (int64_t j = 0; j < n; ++j)
                x->column_sums[j] += x->scratch[q * (1 + n) + 1 + j];
    }}
}}
"""


def generate_factored_shard_c(p: str, g: str) -> str:
    """Write the C text for parameters and gradients of these formats."""
    return PRELUDE + BODY.format(
        real="double" if p == "float64" else "float",
        p=C_TYPES[p],
        g=C_TYPES[g],
        read_p=READ.get(p, "(Real)"),
        read_g=READ.get(g, "(Real)"),
        write_p=WRITE.get(p, f"({C_TYPES[p]})"),
    )
