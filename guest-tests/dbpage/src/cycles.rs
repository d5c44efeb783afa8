//! Cycles in a graph: Tarjan's strongly connected components, without recursion.

/// The groups of two or more nodes each of which leads to every other. `after` gives the `nth`
/// edge of a node: `None` after the last, `Some(None)` for one that leads nowhere.
pub(crate) fn find(
    nodes: usize,
    after: impl Fn(usize, usize) -> Option<Option<usize>>,
) -> Vec<Vec<usize>> {
    /// Not reached yet.
    const NEW: usize = usize::MAX;
    let mut found = vec![NEW; nodes];
    // The earliest node of its group that each is known to lead to; `NEW` once its group is done.
    let mut lowest = vec![NEW; nodes];
    let mut open: Vec<usize> = Vec::new();
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut groups = Vec::new();
    let mut count = 0;
    let get = |of: &[usize], node: usize| of.get(node).copied().unwrap_or(NEW);
    let lower = |of: &mut [usize], node: usize, to: usize| {
        if let Some(lowest) = of.get_mut(node) {
            *lowest = to.min(*lowest);
        }
    };
    for root in 0..nodes {
        let mut enter = (get(&found, root) == NEW).then_some(root);
        loop {
            if let Some(node) = enter.take() {
                lower(&mut found, node, count);
                lower(&mut lowest, node, count);
                count += 1;
                open.push(node);
                path.push((node, 0));
            }
            let Some((node, nth)) = path.last_mut() else {
                break;
            };
            let node = *node;
            if let Some(edge) = after(node, *nth) {
                *nth += 1;
                let Some(to) = edge.filter(|to| *to < nodes) else {
                    continue;
                };
                if get(&found, to) == NEW {
                    enter = Some(to);
                } else if get(&lowest, to) != NEW {
                    lower(&mut lowest, node, get(&found, to));
                }
                continue;
            }
            path.pop();
            let own = get(&lowest, node);
            if own == get(&found, node) {
                let first = open.iter().rposition(|other| *other == node);
                let group = open.split_off(first.unwrap_or(open.len()));
                for member in &group {
                    if let Some(lowest) = lowest.get_mut(*member) {
                        *lowest = NEW;
                    }
                }
                if group.len() > 1 {
                    groups.push(group);
                }
            } else if let Some((before, _)) = path.last() {
                lower(&mut lowest, *before, own);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::find;

    fn groups(nodes: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
        let after = |node, nth| {
            let mut own = edges.iter().filter(|(from, _)| *from == node);
            own.nth(nth).map(|(_, to)| Some(*to))
        };
        let mut groups = find(nodes, after);
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort();
        groups
    }

    /// Whether each node leads to each, by trying.
    fn by_reach(nodes: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
        let mut reach = vec![vec![false; nodes]; nodes];
        for &(from, to) in edges {
            reach[from][to] = true;
        }
        for middle in 0..nodes {
            for from in 0..nodes {
                for to in 0..nodes {
                    reach[from][to] |= reach[from][middle] && reach[middle][to];
                }
            }
        }
        let mut groups: Vec<Vec<usize>> = (0..nodes)
            .map(|node| {
                let both =
                    |other: &usize| *other == node || (reach[node][*other] && reach[*other][node]);
                (0..nodes).filter(both).collect()
            })
            .filter(|group: &Vec<usize>| group.len() > 1)
            .collect();
        groups.sort();
        groups.dedup();
        groups
    }

    #[test]
    fn random_graphs_have_the_groups_that_trying_finds() {
        let mut random = crate::random::Random::new(7);
        for nodes in [1, 2, 3, 5, 8, 13] {
            for edges in 0..40_u64 {
                let mut node = || usize::try_from(random.below(nodes as u64)).unwrap();
                let edges: Vec<_> = (0..edges).map(|_| (node(), node())).collect();
                assert_eq!(groups(nodes, &edges), by_reach(nodes, &edges), "{edges:?}");
            }
        }
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let nodes = 1_000_000;
        let around = |node: usize, nth| (nth == 0).then(|| Some((node + 1) % nodes));
        assert_eq!(find(nodes, around).len(), 1);
        let along = |node: usize, nth| (nth == 0).then(|| (node + 1 < nodes).then(|| node + 1));
        assert!(find(nodes, along).is_empty());
    }
}
