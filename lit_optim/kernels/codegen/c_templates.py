"""The C text around the loops of a kernel, which its generator fills in."""

from __future__ import annotations

#: One pass over the chunks from `begin` to `end`.
PASS = """
static void {name}(const Call *call, const double *h, uint32_t t, int64_t begin, int64_t end) {{
{per_call}
    for (int64_t k = find_tensor(call, {start}); begin < end; {next}) {{
        const int64_t first = k ? call->ends[k - 1] : 0;
        const int64_t low = first > begin ? first : begin;
        const int64_t high = call->ends[k] < end ? call->ends[k] : end;
        void *const *row = call->tensors + k * {width};
        const double numel = (double)call->wholes[k];
{per_tensor}
        {chunks}
{chunk}
{per_chunk}
{close}
        }}
        {rest};
    }}
}}
"""

#: The ways through the chunks: the tensor to begin at, the next one, its chunks, what is left.
FORWARD = {
    "start": "begin",
    "next": "++k",
    "chunks": "for (int64_t chunk = low; chunk < high; ++chunk) {",
    "rest": "begin = high",
}
#: What the pass before has read last is still in the cache. A stretch is long enough that what the
#: processor reads ahead is of use.
BACKWARD = {
    "start": "end - 1",
    "next": "--k",
    "chunks": (
        "for (int64_t top = high; top > low; top -= STRETCH)\n"
        "        for (int64_t chunk = top - STRETCH > low ? top - STRETCH : low; chunk < top;"
        " ++chunk) {"
    ),
    "rest": "end = low",
}

WHOLE_CHUNK = """\
            const int64_t start = (chunk - first) * CHUNK;
            const int64_t left = call->sizes[k] - start;
            const int count = left < CHUNK ? (int)left : CHUNK;"""

#: A part of a chunk is in one run, so that its positions in the whole tensor are consecutive.
RUNS_OF_CHUNK = """\
            const int64_t left = call->sizes[k] - (chunk - first) * CHUNK;
            const int64_t stop = (chunk - first) * CHUNK + (left < CHUNK ? left : CHUNK);
            const int64_t run = call->runs[k], gap = run % {unit} ? 0 : call->gaps[k];
            int count;
            for (int64_t start = (chunk - first) * CHUNK; start < stop; start += count) {{
            const int64_t part = gap && run - start % run < stop - start ? run - start % run
                                                                         : stop - start;
            const int64_t place = call->firsts[k] + start + (gap ? start / run * gap : 0);
            count = (int)part;"""

LOOP = """\
#pragma GCC ivdep
            for (int i = 0; i < count; ++i) {{
{body}
            }}"""

SUM_LOOP = """\
            double {zero};
{blocks}
#pragma omp simd reduction(+:{names})
            for (int i = {begin}; i < {end}; ++i) {{
{body}
            }}
{close}
            double *parts = call->scratch + (call->count + chunk) * {sums};
{store}"""

BLOCK_LOOP = """\
            for (int from = 0; from < count; from += BLOCK) {
                const int to = from + BLOCK < count ? from + BLOCK : count;
"""

#: The chunks that a thread of a team processes.
SHARE = """\
    const int64_t all = {to} - {begin};
    const int64_t begin = {begin} + all * thread / team;
    const int64_t end = {begin} + all * (thread + 1) / team;
"""

#: All passes over a wave of tensors, then all over the next one: what a pass reads again is still
#: in the cache, if the wave is small enough.
WAVES = """\
    for (int64_t k = 0, from = call->begin, to; k < call->count; from = to) {{
        to = call->ends[k++];
        const int64_t room = to - from < {wave} * team ? {wave} * team : (to - from) * 9 / 8;
        while (k < call->count && call->ends[k] - from <= room) to = call->ends[k++];
{share}{passes}    update(call, h, t, begin, end);
    }}
"""

#: Divides the chunks of a call among the threads of a team. One thread runs without OpenMP: a team
#: of one would only disturb the team that torch keeps.
STEP = """
static void run_part(const Call *call, const double *h, uint32_t t, int64_t thread, int64_t team) {{
{passes}}}

void step(const Call *call, const double *h, int64_t t, int threads) {{
#ifdef _OPENMP
    if (threads > 1) {{
        Meeting here = {{0, 0}};
#pragma omp parallel num_threads(threads)
        {{
            meeting = &here;
            run_part(call, h, (uint32_t)t, omp_get_thread_num(), omp_get_num_threads());
        }}
        return;
    }}
#endif
    run_part(call, h, (uint32_t)t, 0, 1);
}}
"""

BARRIER = "    wait_for(team);\n"

#: The first sums of a tensor, from those of its chunks, in the order of the chunks.
ADD_UP = """
static void add_up(const Call *call, int64_t k, int count, double *totals) {{
    for (int j = 0; j < count; ++j) totals[j] = 0;
    for (int64_t chunk = k ? call->ends[k - 1] : 0; chunk < call->ends[k]; ++chunk)
        for (int j = 0; j < count; ++j)
            totals[j] += call->scratch[(call->count + chunk) * {sums} + j];
}}
"""

#: The same, for the caller.
COMBINE = """\
    for (int64_t k = thread; k < call->count; k += team) {{
        const int64_t first = k ? call->ends[k - 1] : 0;
        for (int j = {first}; j < {last}; ++j) {{
            double total = 0;
            for (int64_t chunk = first; chunk < call->ends[k]; ++chunk)
                total += call->scratch[(call->count + chunk) * {sums} + j];
            call->scratch[k * {sums} + j] = total;
        }}
    }}
"""
