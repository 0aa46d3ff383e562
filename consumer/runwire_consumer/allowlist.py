"""The relations and functions that a user's SELECT may name, and how far each function can make a value grow.

Growth matters because DuckDB's memory limit does not see the strings and lists that an expression makes:
`repeat('x', 1500000000)` takes 3 GB under a limit of 300 MB. So every entry says how large its result can get.
"""

from __future__ import annotations

from enum import Enum

RELATIONS = frozenset({
    "runs", "params", "curves", "curves_by_rank", "metrics", "latest", "attempts", "emitters", "events", "alerts",
    "artifacts", "gaps", "dead_letters", "removals", "relations", "columns",
})  # fmt: skip
# Runwire's own, made by the migrations: those that stand in FROM, and those that make a value of a fixed size.
TABLE_MACROS = frozenset({"curve", "smoothed", "rank_spread", "stragglers", "compare"})
MACROS = frozenset({"relative_seconds", "active_seconds"})


class Growth(Enum):
    """How large a function's result is, measured by its arguments."""

    FIXED = "a number, a time or a truth value"
    LARGEST = "at most its largest argument"
    SUM = "its arguments together"
    ESCAPED = "a few times its arguments: every character may become several"
    PRODUCT = "its arguments multiplied"
    COLLECTED = "a value made of many rows, as large as a value may be"
    REPLACED = "its first argument, every byte of which may become the replacement"
    SEPARATED = "its arguments with the first one between them"
    COUNTED = "as large as a count says, which must be written as a number"
    FORMATTED = "as large as the widths in its format say, which must be written out"
    LAMBDA = "one result for every element of a list"


_NAMES = {
    Growth.FIXED: """
        + - * / // % ** ^ & | << >> ~ ~~ !~~ ~~* !~~* ~~~ ^@ && <@ @> ! @ !__postfix xor <=> <->
        like_escape not_like_escape ilike_escape not_ilike_escape add subtract multiply divide mod fmod fdiv
        abs sign signbit ceil ceiling floor round round_even roundbankers trunc even nextafter
        sqrt cbrt exp ln log log2 log10 pow power pi degrees radians gamma lgamma factorial gcd lcm
        greatest_common_divisor least_common_multiple
        sin cos tan cot asin acos atan atan2 sinh cosh tanh asinh acosh atanh isnan isinf isfinite
        bit_count bit_length bit_position random uuid gen_random_uuid hash md5 md5_number sha1 sha256
        length len strlen char_length character_length octet_length length_grapheme ascii ord unicode instr strpos
        position contains starts_with ends_with prefix suffix regexp_matches regexp_full_match
        hamming mismatches jaccard
        array_length cardinality list_contains array_contains list_has array_has list_has_any array_has_any
        list_has_all array_has_all list_position array_position list_indexof array_indexof list_unique array_unique
        list_count list_sum list_avg list_min list_max list_product list_median list_stddev_pop list_stddev_samp
        list_var_pop list_var_samp list_sem list_skewness list_kurtosis list_kurtosis_pop list_mad list_entropy
        list_bool_and list_bool_or list_approx_count_distinct
        list_distance list_cosine_similarity list_cosine_distance list_inner_product list_dot_product
        list_negative_inner_product list_negative_dot_product array_distance array_cosine_similarity
        array_cosine_distance array_inner_product array_dot_product
        map_contains map_contains_entry map_contains_value
        json_array_length json_contains json_exists json_type json_valid
        date_part datepart date_diff datediff date_sub datesub date_trunc datetrunc date_add age ago time_bucket
        year month day hour minute second millisecond microsecond nanosecond quarter week weekofyear yearweek
        dayofweek weekday dayofmonth dayofyear isodow isoyear era decade century millennium julian last_day
        days_in_month dayname monthname timezone timezone_hour timezone_minute epoch epoch_ms epoch_us epoch_ns
        to_timestamp make_date make_time make_timestamp make_timestamp_ms make_timestamp_ns make_timestamptz
        strptime try_strptime now today current_date current_timestamp current_localtime current_localtimestamp
        get_current_time get_current_timestamp transaction_timestamp
        to_years to_quarters to_months to_weeks to_days to_hours to_minutes to_seconds to_milliseconds
        to_microseconds to_decades to_centuries to_millennia normalized_interval
        typeof pg_typeof uuidv4 uuidv7 formatreadablesize formatreadabledecimalsize format_bytes pg_size_pretty
        parse_formatted_bytes chr grouping
        count count_star count_if countif sum fsum kahan_sum sumkahan avg mean favg median product geomean
        geometric_mean wavg weighted_avg stddev stddev_pop stddev_samp variance var_pop var_samp sem skewness kurtosis
        kurtosis_pop mad entropy corr covar_pop covar_samp regr_slope regr_intercept regr_r2 regr_count regr_avgx
        regr_avgy regr_sxx regr_syy regr_sxy bool_and bool_or bit_and bit_or bit_xor approx_count_distinct
        row_number rank dense_rank rank_dense percent_rank cume_dist ntile
        """,
    Growth.LARGEST: """
        upper ucase lower lcase trim ltrim rtrim left right left_grapheme right_grapheme substr substring
        substring_grapheme reverse strip_accents nfc_normalize translate split_part regexp_extract
        parse_filename parse_dirname parse_dirpath nullif greatest least constant_or_null error
        min max min_by max_by arg_min arg_max argmin argmax arg_min_null arg_max_null any_value arbitrary first last
        mode quantile quantile_cont quantile_disc approx_quantile first_value last_value nth_value lag lead fill
        array_extract list_extract list_element element_at list_first list_last list_any_value list_mode
        list_slice array_slice list_sort array_sort list_reverse_sort array_reverse_sort list_reverse array_reverse
        list_distinct array_distinct list_intersect array_intersect list_where array_where
        array_pop_front array_pop_back flatten unnest
        struct_extract struct_extract_at struct_keys struct_values map_keys map_values map_entries map_extract
        map_extract_value map_from_entries json_keys
        """,
    Growth.SUM: """
        || concat list_value list_pack array_value list_concat list_cat array_concat array_cat list_append
        list_prepend array_append array_prepend array_push_back array_push_front list_zip array_zip
        row struct_pack struct_insert struct_concat struct_update map map_concat json_array json_object
        json_merge_patch
        """,
    Growth.ESCAPED: """
        hex to_hex unhex from_hex bin to_binary unbin from_binary to_base64 base64 from_base64 encode decode
        url_encode url_decode regexp_escape strftime to_json json_quote json_pretty json row_to_json array_to_json
        string_split split str_split string_to_array string_split_regex str_split_regex regexp_split_to_array
        regexp_extract_all parse_path list_grade_up array_grade_up grade_up list_histogram
        """,
    Growth.PRODUCT: """
        list_select array_select list_aggregate list_aggr array_aggregate array_aggr
        aggregate list_string_agg array_to_string array_to_string_comma_default levenshtein editdist3
        damerau_levenshtein jaro_similarity jaro_winkler_similarity
        json_extract json_extract_path json_extract_string json_extract_path_text json_value -> ->>
        """,
    Growth.COLLECTED: """
        list array_agg string_agg group_concat listagg histogram histogram_exact approx_top_k
        json_group_array json_group_object
        """,
    Growth.REPLACED: "replace regexp_replace",
    Growth.SEPARATED: "concat_ws",
    Growth.COUNTED: "repeat lpad rpad range generate_series list_resize array_resize",
    Growth.FORMATTED: "printf format",
    Growth.LAMBDA: """
        list_transform array_transform list_apply array_apply apply list_filter array_filter filter
        """,
}

FUNCTIONS: dict[str, Growth] = {name: growth for growth, names in _NAMES.items() for name in names.split()}

# Only what is updated in a step as a window moves on: a list or a histogram of everything so far is made anew for each
# row, 2,048 of them between two looks at an interrupt (histogram() over 100,000 rows: 59 s and 5.8 GB after it).
WINDOW_FUNCTIONS = frozenset(
    [
        "row_number",
        "rank",
        "dense_rank",
        "rank_dense",
        "percent_rank",
        "cume_dist",
        "ntile",
        "first_value",
        "last_value",
        "nth_value",
        "lag",
        "lead",
        "fill",
        "count",
        "count_star",
        "count_if",
        "countif",
        "sum",
        "fsum",
        "kahan_sum",
        "sumkahan",
        "avg",
        "mean",
        "favg",
        "median",
        "product",
        "geomean",
        "geometric_mean",
        "wavg",
        "weighted_avg",
        "min",
        "max",
        "min_by",
        "max_by",
        "arg_min",
        "arg_max",
        "argmin",
        "argmax",
        "arg_min_null",
        "arg_max_null",
        "any_value",
        "arbitrary",
        "first",
        "last",
        "quantile",
        "quantile_cont",
        "quantile_disc",
        "approx_quantile",
        "approx_count_distinct",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "variance",
        "var_pop",
        "var_samp",
        "sem",
        "skewness",
        "kurtosis",
        "kurtosis_pop",
        "corr",
        "covar_pop",
        "covar_samp",
        "regr_slope",
        "regr_intercept",
        "regr_r2",
        "regr_count",
        "regr_avgx",
        "regr_avgy",
        "regr_sxx",
        "regr_syy",
        "regr_sxy",
        "bool_and",
        "bool_or",
        "bit_and",
        "bit_or",
        "bit_xor",
    ]
)
# With so many arguments, the last says how many values are kept for every group, and room is made for all at once.
LIMITED_AGGREGATES = {
    **dict.fromkeys(("min", "max", "approx_top_k"), 2),
    **dict.fromkeys(("min_by", "max_by", "arg_min", "arg_max", "argmin", "argmax", "arg_min_null", "arg_max_null"), 3),
}

# Columns that hold what people write, beside those that hold names and numbers; a param's value is such a text, too.
TEXT_COLUMNS = frozenset({
    "notes", "command", "body", "text", "title", "params", "tags", "reason", "state_reason", "error", "head", "headers",
    "packages", "uri",
})  # fmt: skip
TEXT_RELATIONS = frozenset({"params"})
TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest"})

TYPES = frozenset({
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "VARCHAR", "BLOB", "UUID", "DATE", "TIME", "TIME WITH TIME ZONE",
    "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE", "INTERVAL", "LIST", "MAP",
    "STRUCT", "NULL", "JSON", "TEXT", "STRING",
})  # fmt: skip
WIDE_TYPES = frozenset({"VARCHAR", "BLOB", "JSON", "TEXT", "STRING"})
