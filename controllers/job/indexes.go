package job

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// indexes is a set of completion indexes, as ranges in order: a Job may have a
// hundred thousand of them, most in one range.
type indexes []span

type span struct{ first, last int }

// parseIndexes reads "0-3,5,7-9"; what lies beyond limit, or makes no sense,
// is left out.
func parseIndexes(text string, limit int) indexes {
	var x indexes
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if ranged && err == nil {
			last, err = strconv.Atoi(to)
		}
		if last = min(last, limit-1); err == nil && first <= last {
			x = append(x, span{first, last})
		}
	}
	return x.joined()
}

// String is what parseIndexes reads; two neighbours are written "3,4".
func (x indexes) String() string {
	var parts []string
	for _, s := range x {
		text := strconv.Itoa(s.first)
		switch s.last - s.first {
		case 0:
		case 1:
			text += "," + strconv.Itoa(s.last)
		default:
			text += "-" + strconv.Itoa(s.last)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ",")
}

func (x indexes) has(index int) bool {
	_, found := slices.BinarySearchFunc(x, index, func(s span, i int) int {
		switch {
		case s.last < i:
			return -1
		case s.first > i:
			return 1
		}
		return 0
	})
	return found
}

func (x indexes) count() (n int) {
	for _, s := range x {
		n += s.last - s.first + 1
	}
	return n
}

// with is the union with other sets.
func (x indexes) with(others ...indexes) indexes {
	return slices.Concat(append(others, x)...).joined()
}

// joined sorts spans and makes one of those that touch.
func (x indexes) joined() indexes {
	slices.SortFunc(x, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var result indexes
	for _, s := range x {
		if n := len(result); n > 0 && s.first <= result[n-1].last+1 {
			result[n-1].last = max(result[n-1].last, s.last)
		} else {
			result = append(result, s)
		}
	}
	return result
}

// missing are the first n indexes below limit that are not in the set.
func (x indexes) missing(n, limit int) []int {
	var found []int
	next := 0
	for _, s := range append(x[:len(x):len(x)], span{limit, limit}) {
		for ; next < min(s.first, limit) && len(found) < n; next++ {
			found = append(found, next)
		}
		next = max(next, s.last+1)
	}
	return found
}

// common is how many indexes two sets share.
func (x indexes) common(y indexes) int { return x.count() + y.count() - x.with(y).count() }
