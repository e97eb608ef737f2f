#!/usr/bin/awk -f
# Lines of a few points as a picture: what bench/transfer.sh and bench/prune-distill.sh draw beside their tables.
#
#   awk -v title=T -v x=X -v y=Y -f bench/curve.awk FILE >picture.svg
#
# FILE: series, place, value and (optional) deviation on each line, with tabs between. Places are words, drawn at equal distances in the order in which they
# come first; values are drawn from zero. Colours as in `cyclora compare`'s plots.
BEGIN {
    FS = "\t"
    split("#0072b2 #d55e00 #009e73 #cc79a7", colour, " ")
    W = 640; H = 380; L = 64; R = 150; T = 50; B = 56
}
NF >= 3 {
    if (!($2 in at)) { at[$2] = ++n; place[n] = $2 }
    if (!($1 in of)) { of[$1] = ++m; series[m] = $1 }
    value[$1, $2] = $3; off[$1, $2] = $4
    if ($3 + $4 > top) top = $3 + $4
}
function px(i) { return L + (n > 1 ? (i - 0.5) / n : 0.5) * (W - L - R) }
function py(v) { return H - B - v / most * (H - T - B) }
END {
    if (!n) { print "curve.awk: no points" >"/dev/stderr"; exit 1 }
    for (step = 1; top / step > 6; step *= (++turn % 3 == 2 ? 2.5 : 2)) ;
    most = step * int(top / step + 1)
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#222\">\n", W, H, W, H
    print "<style>.grid{stroke:#e6e6e6}.axis{stroke:#444;fill:none}.tick{font-size:11px;fill:#555}</style>"
    print "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    printf "<text x=\"%d\" y=\"26\" font-size=\"15\">%s</text>\n", L, title
    for (v = 0; v <= most; v += step)
        printf "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" class=\"grid\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" class=\"tick\">%g</text>\n", L, py(v), W - R, py(v), L - 8, py(v) + 4, v
    for (i = 1; i <= n; i++) printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" class=\"tick\">%s</text>\n", px(i), H - B + 18, place[i]
    printf "<path d=\"M%d %dV%dH%d\" class=\"axis\"/>\n", L, T, H - B, W - R
    printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text><text x=\"18\" y=\"%.1f\" text-anchor=\"middle\" transform=\"rotate(-90 18 %.1f)\">%s</text>\n", (L + W - R) / 2, H - 14, x, (T + H - B) / 2, (T + H - B) / 2, y
    for (k = 1; k <= m; k++) {
        s = series[k]; c = colour[(k - 1) % 4 + 1]; path = ""
        for (i = 1; i <= n; i++) {
            if (!((s, place[i]) in value)) continue
            v = value[s, place[i]]; e = off[s, place[i]]
            path = path (path == "" ? "M" : "L") sprintf("%.1f %.1f", px(i), py(v)); last = i
            if (e > 0) printf "<path d=\"M%.1f %.1fV%.1f\" stroke=\"%s\" stroke-width=\"1.2\"/>\n", px(i), py(v - e), py(v + e), c
            rises = i < n && value[s, place[i + 1]] > v # a number stands beside its line, not on it
            printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", px(i), py(v), c
            at_y = py(v) - 6
            for (j = 1; j <= m; j++) { # of two numbers that would meet the lesser is below, and one that is there already is not said again
                if (j == k || !((series[j], place[i]) in value)) continue
                gap = py(value[series[j], place[i]]) - py(v)
                if (gap == 0 && j < k) at_y = -1
                else if (gap < 0 && gap > -12) at_y = py(v) + 16
            }
            if (at_y > 0) printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"tick\">%g</text>\n", px(i) + (rises ? -8 : 8), at_y, rises ? "end" : "start", v
        }
        printf "<path d=\"%s\" stroke=\"%s\" stroke-width=\"2\" fill=\"none\"/><text x=\"%d\" y=\"%.1f\" fill=\"%s\">%s</text>\n", path, c, W - R + 6, py(value[s, place[last]]) + 4, c, s
    }
    print "</svg>"
}
