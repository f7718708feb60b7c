-- Macros for analysts, beside the views of views.sql. Every example is in docs/recipes.md.
-- Intervals are over users: a user's impressions are not independent of each other.

CREATE OR REPLACE MACRO name_of(kind_of_id, our_id) AS (
    SELECT original FROM KEYS WHERE kind = kind_of_id AND id = our_id);
COMMENT ON MACRO name_of IS 'name_of(''user'', 17): what an imported id is called in its source; the inverse of id_of';

-- The variance of a ratio of sums by its linear approximation (Cochran 1977, section 2.11).
CREATE OR REPLACE MACRO ratio_error(y, n) AS
    CASE WHEN count(*) > 1 THEN
        sqrt(greatest(0, count(*) / (count(*) - 1) * (
            sum(y * y) - 2 * (sum(y) / sum(n)) * sum(y * n)
            + pow(sum(y) / sum(n), 2) * sum(n * n)))) / sum(n)
    END;
COMMENT ON MACRO ratio_error IS 'ratio_error(y, n): standard error of sum(y) / sum(n), an aggregate over one row a user; null for one user';

CREATE OR REPLACE MACRO counted(what, value, actions, names) AS
    CASE WHEN what = 'value' THEN value
         WHEN list_contains(names, what)
         THEN ((actions >> (list_position(names, what)::INTEGER - 1)) & 1)::DOUBLE
         ELSE error('no action ' || what || '; the table actions lists them, and value is their sum')
    END;
COMMENT ON MACRO counted IS 'counted(action, value, actions, names): 1 where a mask has the action, else 0; the value itself for the word value';


-- One interest over time.

-- `until` falls and `since` rises with every step, so both recursions end.
CREATE OR REPLACE MACRO lineage(who, which) AS TABLE
WITH RECURSIVE
mine AS (
    SELECT *, lag(item_ids) OVER (PARTITION BY cluster_id ORDER BY run_date) AS before
    FROM PROFILES_ALL WHERE user_id = who),
became AS (
    SELECT cluster_id AS child, parent, min(run_date) AS since
    FROM (SELECT run_date, cluster_id, unnest(from_cluster_ids) AS parent FROM mine)
    WHERE parent <> cluster_id GROUP BY ALL),
back AS (
    SELECT which::BIGINT AS cluster_id, DATE '9999-12-31' AS until, 0 AS steps
    UNION
    SELECT b.parent, b.since, l.steps + 1
    FROM back AS l JOIN became AS b ON b.child = l.cluster_id AND b.since < l.until),
ahead AS (
    SELECT which::BIGINT AS cluster_id, DATE '0001-01-01' AS since, 0 AS steps
    UNION
    SELECT b.child, b.since, l.steps + 1
    FROM ahead AS l JOIN became AS b ON b.parent = l.cluster_id AND b.since > l.since),
places AS (
    SELECT m.run_date, m.cluster_id, 'ancestor' AS relation, l.steps
    FROM back AS l JOIN mine AS m ON m.cluster_id = l.cluster_id AND m.run_date < l.until
    WHERE l.steps > 0
    UNION ALL
    SELECT m.run_date, m.cluster_id, CASE WHEN l.steps = 0 THEN 'itself' ELSE 'descendant' END, l.steps
    FROM ahead AS l JOIN mine AS m ON m.cluster_id = l.cluster_id AND m.run_date >= l.since),
nearest AS (
    SELECT run_date, cluster_id, arg_min(relation, steps) AS relation, min(steps) AS steps
    FROM places GROUP BY ALL)
SELECT m.run_date, n.relation, n.steps, m.cluster_id, i.title, m.lineage, m.from_cluster_ids,
       m.n_items,
       len(list_filter(m.item_ids, lambda x: NOT list_contains(m.before, x))) AS new_items,
       len(list_filter(m.before, lambda x: NOT list_contains(m.item_ids, x))) AS lost_items,
       m.last_at
FROM nearest AS n JOIN mine AS m ON m.run_date = n.run_date AND m.cluster_id = n.cluster_id
LEFT JOIN ITEMS AS i ON i.item_id = m.medoid_item_id
ORDER BY m.run_date, n.steps, m.cluster_id;
COMMENT ON MACRO TABLE lineage IS 'lineage(user_id, cluster_id): the interest on every night, with the clusters it came from and those that came of it; new_items and lost_items are against the night before (null on the first)';


-- Who waits.

CREATE OR REPLACE MACRO starved(least_nights) AS TABLE
WITH dates AS (SELECT DISTINCT run_date FROM nights WHERE kind <> 'bootstrap'),
ends AS (SELECT min(run_date) AS first, max(run_date) + 1 AS tomorrow FROM dates),
waits AS (  -- how many nights there were from each day on
    SELECT x.day, count(d.run_date) AS nights_waiting
    FROM (SELECT unnest(range(first, tomorrow + 1, INTERVAL 1 DAY))::DATE AS day FROM ends) AS x
    LEFT JOIN dates AS d ON d.run_date >= x.day GROUP BY ALL),
standing AS (
    SELECT c.*, p.n_items, p.first_at, greatest(c.last_chance, o.day) AS latest_chance,
           coalesce(latest_chance, (p.first_at AT TIME ZONE 'UTC')::DATE) AS waits_from
    FROM CLUSTER_REWARDS AS c
    LEFT JOIN open_chances AS o
           ON o.user_id = c.user_id AND o.surface = c.surface AND o.cluster_id = c.cluster_id
    JOIN PROFILES AS p ON p.user_id = c.user_id AND p.cluster_id = c.cluster_id
    WHERE c.last_chance IS NOT NULL OR (c.weight = 0 AND c.draws = 0)),  -- else not written down
waiting AS (
    SELECT s.*, w.nights_waiting
    FROM standing AS s CROSS JOIN ends AS e
    JOIN waits AS w ON w.day = least(greatest(s.waits_from, e.first), e.tomorrow)
    WHERE w.nights_waiting >= least_nights)
SELECT c.user_id, c.surface, c.cluster_id, i.title, c.nights_waiting, c.latest_chance AS last_chance,
       c.first_at, c.reward, c.prior_source, c.importance / t.importance AS importance_share,
       c.n_items, c.arm
FROM waiting AS c
JOIN importance_totals AS t ON t.user_id = c.user_id AND t.surface = c.surface
LEFT JOIN ITEMS AS i ON i.item_id = CASE WHEN c.query_type = 'item' THEN c.query_id END
ORDER BY c.nights_waiting DESC, importance_share DESC, c.user_id, c.surface, c.cluster_id;
COMMENT ON MACRO TABLE starved IS 'starved(nights): interests that so many nights, tonight among them, have passed over since they last had a chance; last_chance is the last day on which something of it was shown, or that a draw of it was or is for (once closed, one for a day on which the user did not come is none); null: never, as far back as records reach, and it waits from its first engagement on. Nights of older releases did not write chances down: of these only interests that never had any are told';


-- Rates, and arms against each other.

CREATE OR REPLACE MACRO arm_lift(action) AS TABLE
WITH rows AS (
    SELECT o.surface, o.arm, o.user_id, o.impression_id, o.examination * o.credit AS weight,
           counted(action, o.value, o.actions, s.action_names) AS got
    FROM OUTCOMES AS o CROSS JOIN settings AS s
    WHERE o.draw_id <> 0),
users AS (
    SELECT surface, arm, user_id, count(DISTINCT impression_id) AS impressions,
           sum(weight) AS n, sum(weight * got) AS y
    FROM rows GROUP BY ALL HAVING sum(weight) > 0),
measured AS (
    SELECT u.surface, u.arm, coalesce(any_value(a.place), 0) AS place, count(*) AS users,
           sum(u.impressions)::BIGINT AS impressions, sum(u.y) / sum(u.n) AS rate,
           ratio_error(u.y, u.n) AS error
    FROM users AS u LEFT JOIN arms AS a ON a.arm = u.arm GROUP BY u.surface, u.arm),
compared AS (
    SELECT m.*, f.rate AS first_rate, m.rate - f.rate AS difference,
           sqrt(pow(m.error, 2) + pow(f.error, 2)) AS difference_error,
           m.rate / nullif(f.rate, 0) - 1 AS lift,
           sqrt(pow(m.error, 2) + pow(m.rate / nullif(f.rate, 0) * f.error, 2)) / nullif(f.rate, 0)
               AS lift_error
    FROM measured AS m
    LEFT JOIN (SELECT * FROM measured
               QUALIFY row_number() OVER (PARTITION BY surface ORDER BY place, arm) = 1) AS f
           ON f.surface = m.surface AND f.arm <> m.arm)
SELECT surface, arm, users, impressions, rate, rate - 1.96 * error AS low, rate + 1.96 * error AS high,
       difference, difference - 1.96 * difference_error AS difference_low,
       difference + 1.96 * difference_error AS difference_high,
       lift, lift - 1.96 * lift_error AS lift_low, lift + 1.96 * lift_error AS lift_high
FROM compared ORDER BY surface, place, arm;
COMMENT ON MACRO TABLE arm_lift IS 'arm_lift(action): per surface and arm the rate of an action (or of ''value'') over the impressions that draws brought, and its difference and lift against the first arm, with 95 % intervals that linearise over users';

CREATE OR REPLACE MACRO position_rates(action) AS TABLE
WITH rows AS (
    SELECT o.surface, o.position, o.user_id, o.impression_id, o.credit AS weight,
           counted(action, o.value, o.actions, s.action_names) AS got
    FROM OUTCOMES AS o CROSS JOIN settings AS s WHERE o.position IS NOT NULL),
users AS (
    SELECT surface, position, user_id, count(DISTINCT impression_id) AS impressions,
           sum(weight) AS n, sum(weight * got) AS y
    FROM rows GROUP BY ALL)
SELECT surface, position, count(*) AS users, sum(impressions)::BIGINT AS impressions,
       sum(y) / sum(n) AS rate, sum(y) / sum(n) - 1.96 * ratio_error(y, n) AS low,
       sum(y) / sum(n) + 1.96 * ratio_error(y, n) AS high
FROM users GROUP BY surface, position ORDER BY surface, position;
COMMENT ON MACRO TABLE position_rates IS 'position_rates(action): rate of an action (or of ''value'') by place in the feed, with a 95 % interval over users';

CREATE OR REPLACE MACRO item_rates(action) AS TABLE
WITH rows AS (
    SELECT o.item_id, o.user_id, o.impression_id, o.examination * o.credit AS weight,
           counted(action, o.value, o.actions, s.action_names) AS got
    FROM OUTCOMES AS o CROSS JOIN settings AS s),
users AS (
    SELECT item_id, user_id, count(DISTINCT impression_id) AS impressions,
           sum(weight) AS n, sum(weight * got) AS y
    FROM rows GROUP BY ALL HAVING sum(weight) > 0),
rated AS (
    SELECT item_id, count(*) AS users, sum(impressions)::BIGINT AS impressions,
           sum(y) / sum(n) AS rate, sum(y) / sum(n) - 1.96 * ratio_error(y, n) AS low,
           sum(y) / sum(n) + 1.96 * ratio_error(y, n) AS high
    FROM users GROUP BY item_id)
SELECT x.item_id, i.title, x.users, x.impressions, x.rate, x.low, x.high
FROM rated AS x LEFT JOIN ITEMS AS i USING (item_id) ORDER BY x.impressions DESC, x.item_id;
COMMENT ON MACRO TABLE item_rates IS 'item_rates(action): rate of an action (or of ''value'') by item, the most shown first, with a 95 % interval over users';


-- What was promised against what came.

CREATE OR REPLACE MACRO calibration(bins) AS TABLE
WITH brought AS (
    SELECT user_id, draw_id, count(*) AS impressions,
           sum(examination * credit) AS n, sum(examination * credit * value) AS y
    FROM OUTCOMES WHERE draw_id <> 0 GROUP BY ALL HAVING sum(examination * credit) > 0),
draws_made AS (
    SELECT b.*, p.reward, ntile(bins) OVER (ORDER BY p.reward, b.draw_id) AS bin
    FROM brought AS b JOIN promised AS p ON p.user_id = b.user_id AND p.draw_id = b.draw_id),
users AS (
    SELECT bin, user_id, min(reward) AS least, max(reward) AS most, count(*) AS draws,
           sum(impressions) AS impressions, sum(n) AS n, sum(y) AS y, sum(n * reward) AS p
    FROM draws_made GROUP BY ALL)
SELECT bin, min(least) AS predicted_from, max(most) AS predicted_to, sum(draws)::BIGINT AS draws,
       count(*) AS users, sum(impressions)::BIGINT AS impressions, sum(p) / sum(n) AS predicted,
       sum(y) / sum(n) AS came, sum(y) / sum(n) - 1.96 * ratio_error(y, n) AS low,
       sum(y) / sum(n) + 1.96 * ratio_error(y, n) AS high,
       (sum(y) - sum(p)) / nullif(ratio_error(y - p, n) * sum(n), 0) AS z
FROM users GROUP BY bin ORDER BY bin;
COMMENT ON MACRO TABLE calibration IS 'calibration(bins): draws that brought impressions, in so many bins of the reward that the night gave their interest; what was predicted, what came with a 95 % interval over users, and z of the difference';

CREATE OR REPLACE MACRO propensity_check(night_of) AS TABLE
WITH drawn AS (SELECT * FROM QUERIES WHERE run_date = night_of::DATE),
sets AS (
    SELECT user_id, surface, count(*) AS queries, count(DISTINCT slot) AS slots, max(slot) AS last,
           min(propensity) AS least, any_value(set_probability) AS chance,
           count(DISTINCT set_probability) AS chances
    FROM drawn GROUP BY ALL),
served AS (SELECT user_id, surface, any_value(policy) AS policy FROM drawn GROUP BY ALL),
tonight AS (  -- as draw_check, which would look at every night where the date is a subquery
    SELECT * FROM CLUSTER_REWARDS_ALL WHERE run_date = night_of::DATE),
quartiles AS (
    SELECT surface, arm, quantile_disc(reward, [0.25, 0.5, 0.75]) AS cuts FROM tonight GROUP BY ALL),
interests AS (
    SELECT c.surface, c.arm, s.policy, d.propensity, quarter_of(c.reward, t.cuts) AS reward_quarter
    FROM tonight AS c JOIN served AS s USING (user_id, surface)
    JOIN quartiles AS t ON t.surface = c.surface AND t.arm = c.arm
    LEFT JOIN drawn AS d USING (user_id, surface, cluster_id)),
checks AS (
    SELECT 'interests of reward quarter ' || reward_quarter AS what, surface, arm, policy,
           count(*)::DOUBLE AS promised, coalesce(sum(1 / propensity), 0) AS found,
           coalesce(sqrt(sum((1 - propensity) / (propensity * propensity))), 0) AS error,
           false AS exact
    FROM interests GROUP BY surface, arm, policy, reward_quarter
    UNION ALL
    SELECT 'draws with a propensity outside (0, 1]', NULL, NULL, NULL, 0, count(*), 0, true
    FROM drawn WHERE NOT (propensity > 0 AND propensity <= 1)
    UNION ALL
    SELECT 'draw ids that two draws have', NULL, NULL, NULL, 0,
           (SELECT count(*) - count(DISTINCT draw_id) FROM drawn), 0, true
    UNION ALL
    SELECT 'sets more probable than one of their members', NULL, NULL, NULL, 0, count(*), 0, true
    FROM sets WHERE chance > least + 1e-9
    UNION ALL
    SELECT 'sets with several probabilities, or slots that are not 0, 1, ...', NULL, NULL, NULL, 0,
           count(*), 0, true
    FROM sets WHERE chances > 1 OR slots <> queries OR last <> queries - 1)
SELECT what, surface, arm, policy, promised, found,
       CASE WHEN error > 0 THEN (found - promised) / error END AS z,
       CASE WHEN exact THEN found = promised
            WHEN error > 0 THEN abs(found - promised) <= 4 * error
            WHEN abs(found - promised) < 1e-6 THEN true END AS holds
FROM checks ORDER BY surface IS NULL, surface, arm, policy, what;
COMMENT ON MACRO TABLE propensity_check IS 'propensity_check(date): does what the night drew agree with the probabilities it wrote down? Interests there are against those that its draws stand for, and what must hold of every set; z within 4 holds, null where no draw says anything';


-- One feed, one impression.

CREATE OR REPLACE MACRO feed_of(who) AS TABLE
SELECT f.serve_date, f.surface, f.position, f.item_id, i.title, f.relevance, f.draw_id, q.cluster_id,
       t.title AS query_title, q.propensity, f.spacing_classes, f.decided_by
FROM FEED AS f
LEFT JOIN QUERIES AS q ON q.user_id = f.user_id AND q.draw_id = f.draw_id
LEFT JOIN ITEMS AS i ON i.item_id = f.item_id
LEFT JOIN ITEMS AS t ON t.item_id = CASE WHEN q.query_type = 'item' THEN q.query_id END
WHERE f.user_id = who AND f.run_date = (SELECT max(run_date) FROM FEED WHERE user_id = who)
ORDER BY f.surface, f.position;
COMMENT ON MACRO TABLE feed_of IS 'feed_of(user_id): the newest feed made for a user, with the query that brought every item';

CREATE OR REPLACE MACRO impression_story(which) AS TABLE
SELECT o."at", o.user_id, o.surface, o.position, o.item_title, o.value, o.actions, o.attribution, o.draw_id,
       o.query_title, o.cluster_id, o.credit, o.propensity, p.run_date AS drawn_on,
       p.reward AS reward_then, p.prior_source AS prior_then
FROM outcomes_named AS o
LEFT JOIN promised AS p ON p.user_id = o.user_id AND p.draw_id = o.draw_id
WHERE o.impression_id = which ORDER BY o.credit DESC, o.draw_id;
COMMENT ON MACRO TABLE impression_story IS 'impression_story(impression_id): what the user did with it, the draw that is credited, and what was thought of that interest when it was drawn';
