-- Statements of `queryloop diff`; $before and $after are dates of nights, $users a number.

-- rates: of what closed on either night
WITH o AS (
    SELECT run_date = $after AS late, * FROM OUTCOMES WHERE run_date IN ($before, $after)),
measured AS (
    SELECT late,
           sum(examination * credit * value) / nullif(sum(examination * credit), 0) AS engagement,
           avg((attribution = 'logged')::INT) AS logged,
           avg((attribution = 'inferred')::INT) AS inferred,
           avg((attribution = 'none')::INT) AS unattributed
    FROM o GROUP BY ALL),
long AS (UNPIVOT measured ON engagement, logged, inferred, unattributed INTO NAME what VALUE x)
SELECT what, max(x) FILTER (NOT late) AS before, max(x) FILTER (late) AS after
FROM long GROUP BY what
ORDER BY list_position(['engagement', 'logged', 'inferred', 'unattributed'], what);

-- distributions: of interests and rewards on either night
WITH c AS (
    SELECT run_date = $after AS late, * FROM CLUSTER_REWARDS_ALL WHERE run_date IN ($before, $after)),
per_user AS (SELECT late, user_id, surface, count(*) AS n FROM c GROUP BY ALL),
interests AS (
    SELECT late, avg(n) AS mean, quantile_cont(n, 0.5) AS p50, quantile_cont(n, 0.9) AS p90,
           quantile_cont(n, 0.99) AS p99 FROM per_user GROUP BY ALL),
rewards AS (
    SELECT late, avg(reward) AS mean, quantile_cont(reward, 0.1) AS p10,
           quantile_cont(reward, 0.5) AS p50, quantile_cont(reward, 0.9) AS p90 FROM c GROUP BY ALL),
leaning AS (
    SELECT late, what, n / sum(n) OVER (PARTITION BY late) AS x
    FROM (SELECT late, prior_source AS what, count(*) AS n FROM c GROUP BY ALL)),
slots AS (
    SELECT run_date = $after AS late, slot::VARCHAR AS what, count(*) AS x
    FROM QUERIES WHERE run_date IN ($before, $after) GROUP BY ALL),
spread AS (
    SELECT 'interests per user' AS name, late, what, x
    FROM (UNPIVOT interests ON mean, p50, p90, p99 INTO NAME what VALUE x)
    UNION ALL
    SELECT 'reward', late, what, x
    FROM (UNPIVOT rewards ON mean, p10, p50, p90 INTO NAME what VALUE x)
    UNION ALL SELECT 'share of rewards by what they lean on', late, what, x FROM leaning
    UNION ALL SELECT 'draws by slot', late, what, x FROM slots)
SELECT name, what, max(x) FILTER (NOT late) AS before, max(x) FILTER (late) AS after
FROM spread GROUP BY name, what
ORDER BY list_position(['interests per user', 'reward', 'share of rewards by what they lean on',
                        'draws by slot'], name), what;

-- moved: users whose chances moved most, each with the interest that moved them
WITH weighed AS (
    SELECT run_date = $after AS late, user_id, surface, cluster_id, query_id, query_type, reward,
           importance, weight, draws,
           reward * importance / nullif(sum(reward * importance)
               OVER (PARTITION BY run_date, user_id, surface), 0) AS share
    FROM CLUSTER_REWARDS_ALL WHERE run_date IN ($before, $after)),
seen AS (SELECT user_id, surface FROM weighed GROUP BY ALL HAVING count(DISTINCT late) = 2),
both_nights AS (
    SELECT user_id, surface, cluster_id,
           coalesce(max(share) FILTER (NOT late), 0) AS share_before,
           coalesce(max(share) FILTER (late), 0) AS share_after,
           max(reward) FILTER (NOT late) AS reward_before, max(reward) FILTER (late) AS reward_after,
           max(importance) FILTER (NOT late) AS importance_before,
           max(importance) FILTER (late) AS importance_after,
           coalesce(max(query_id) FILTER (late AND query_type = 'item'),
                    max(query_id) FILTER (query_type = 'item')) AS item_id
    FROM weighed SEMI JOIN seen USING (user_id, surface) GROUP BY ALL),
users AS (
    SELECT user_id, surface, sum(abs(share_after - share_before)) / 2 AS moved
    FROM both_nights GROUP BY ALL ORDER BY moved DESC, user_id, surface LIMIT $users),
most AS (
    SELECT b.*, u.moved FROM both_nights AS b JOIN users AS u USING (user_id, surface)
    QUALIFY row_number() OVER (PARTITION BY user_id, surface
        ORDER BY abs(share_after - share_before) DESC, cluster_id) = 1)
SELECT m.user_id, m.surface, m.moved, m.cluster_id, i.title, m.share_before, m.share_after,
       CASE WHEN m.reward_before IS NULL THEN
                'a new interest: ' || coalesce(p.lineage, 'born')
            WHEN m.reward_after IS NULL THEN 'the interest is gone: merged, split or out of the window'
            WHEN m.share_after < m.share_before AND m.reward_after * m.importance_after
                 >= 0.8 * m.reward_before * m.importance_before
            THEN 'other interests grew or came beside it'
            WHEN abs(ln(greatest(m.reward_after, 1e-9) / greatest(m.reward_before, 1e-9)))
                 >= abs(ln(greatest(m.importance_after, 1e-9) / greatest(m.importance_before, 1e-9)))
            THEN format('its reward went from {:.3f} to {:.3f}', m.reward_before, m.reward_after)
            ELSE format('its importance went from {:.2f} to {:.2f}: what the user engaged with',
                        m.importance_before, m.importance_after) END AS why
FROM most AS m
LEFT JOIN PROFILES_ALL AS p ON p.user_id = m.user_id AND p.cluster_id = m.cluster_id
    AND p.run_date = $after
LEFT JOIN ITEMS AS i ON i.item_id = m.item_id
ORDER BY m.moved DESC, m.user_id, m.surface;
