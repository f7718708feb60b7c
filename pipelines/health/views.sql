-- Loop health, one row a night and group. A night's own figures (night_health) are these views over
-- that night's files; here they are over all nights. Rates are ratios of sums over users, so their
-- intervals come from what users differ by (ratio_error).

CREATE OR REPLACE VIEW health_rates AS
WITH positive AS (SELECT coalesce(sum(1::BIGINT << code), 0)::BIGINT AS mask FROM actions WHERE positive),
by_user AS (
    SELECT run_date, surface, arm, policy, attribution, user_id,
           count(DISTINCT impression_id) AS impressions,
           sum(examination * credit) AS w, sum(examination * credit * value) AS v,
           sum(credit) AS credit, sum(credit * ((actions & mask) <> 0)::INTEGER) AS engaged
    FROM OUTCOMES CROSS JOIN positive GROUP BY ALL),
rates AS (
    SELECT run_date, surface, arm, policy, attribution, count(*) AS users,
           sum(impressions)::BIGINT AS impressions, sum(engaged) / nullif(sum(credit), 0) AS engaged,
           sum(v) / nullif(sum(w), 0) AS rate, ratio_error(v, w) AS error
    FROM by_user GROUP BY ALL)
SELECT run_date, surface, arm, policy, attribution, users, impressions, engaged, rate,
       rate - 1.96 * error AS low, rate + 1.96 * error AS high
FROM rates;
COMMENT ON VIEW health_rates IS 'what closed each night: value per impression by surface, arm, policy and attribution, with a 95 % interval over users';
COMMENT ON COLUMN health_rates.run_date IS 'the night that closed them';
COMMENT ON COLUMN health_rates.surface IS 'where: home, related, ...';
COMMENT ON COLUMN health_rates.arm IS 'arm of the experiment, empty if none';
COMMENT ON COLUMN health_rates.attribution IS 'logged, inferred or none';
COMMENT ON COLUMN health_rates.users IS 'whose impressions these are';
COMMENT ON COLUMN health_rates.impressions IS 'that closed';
COMMENT ON COLUMN health_rates.low IS '95 % interval over users';
COMMENT ON COLUMN health_rates.high IS '95 % interval over users';
COMMENT ON COLUMN health_rates.engaged IS 'share of the impressions with a positive action';
COMMENT ON COLUMN health_rates.rate IS 'mean value of an impression, weighted by examination and credit';
COMMENT ON COLUMN health_rates.policy IS 'of the draw; empty where no draw is known';


CREATE OR REPLACE VIEW health_waiting AS
WITH drawn AS (SELECT DISTINCT run_date, user_id, surface, cluster_id FROM QUERIES),
interests AS (
    SELECT c.run_date, c.surface, c.arm, c.weight = 0 AND c.draws = 0 AND d.cluster_id IS NULL AS waits,
           (epoch_us(n.cutoff) - epoch_us(p.first_at)) / 86400e6 AS days
    FROM CLUSTER_REWARDS_ALL AS c
    JOIN nights AS n USING (run_date)
    LEFT JOIN PROFILES_ALL AS p USING (run_date, user_id, cluster_id)
    LEFT JOIN drawn AS d USING (run_date, user_id, surface, cluster_id))
SELECT run_date, surface, arm, count(*) AS interests, count(*) FILTER (waits) AS waiting,
       avg(waits::INTEGER) AS share,
       quantile_cont(days, 0.5) FILTER (waits) AS median_days, max(days) FILTER (waits) AS longest_days,
       count(*) FILTER (waits AND days > 7) AS over_7_days,
       count(*) FILTER (waits AND days > 28) AS over_28_days
FROM interests GROUP BY ALL;
COMMENT ON VIEW health_waiting IS 'interests that nothing was ever shown of, nor drawn tonight: how many, and for how long; never_had_a_chance names those without an open draw';
COMMENT ON COLUMN health_waiting.run_date IS 'the night';
COMMENT ON COLUMN health_waiting.surface IS 'where';
COMMENT ON COLUMN health_waiting.arm IS 'arm of the experiment, empty if none';
COMMENT ON COLUMN health_waiting.interests IS 'of users who are served';
COMMENT ON COLUMN health_waiting.waiting IS 'of which nothing was shown or drawn';
COMMENT ON COLUMN health_waiting.longest_days IS 'the age of the oldest';
COMMENT ON COLUMN health_waiting.over_7_days IS 'that wait for more than a week';
COMMENT ON COLUMN health_waiting.over_28_days IS 'that wait for more than four weeks';
COMMENT ON COLUMN health_waiting.share IS 'of the night''s interests of users who are served';
COMMENT ON COLUMN health_waiting.median_days IS 'since the first engagement that the interest counts';


CREATE OR REPLACE VIEW health_spread AS
WITH counted AS (
    SELECT run_date, surface, arm, 'queries' AS what, query_id AS id, count(*) AS n
    FROM QUERIES GROUP BY ALL
    UNION ALL
    SELECT run_date, surface, arm, 'shown items', item_id, count(DISTINCT impression_id)
    FROM OUTCOMES GROUP BY ALL),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY run_date, surface, arm, what ORDER BY n, id) AS place,
           n / sum(n) OVER (PARTITION BY run_date, surface, arm, what) AS p
    FROM counted)
SELECT run_date, surface, arm, what, sum(n)::BIGINT AS n, count(*) AS different,
       -sum(p * log2(p)) AS entropy,
       2 * sum(place * p) / count(*) - (count(*) + 1) / count(*) AS gini
FROM ranked GROUP BY ALL;
COMMENT ON VIEW health_spread IS 'how widely queries, and items shown, are spread: entropy and Gini coefficient of their counts';
COMMENT ON COLUMN health_spread.run_date IS 'the night';
COMMENT ON COLUMN health_spread.surface IS 'where';
COMMENT ON COLUMN health_spread.arm IS 'arm of the experiment, empty if none';
COMMENT ON COLUMN health_spread.what IS 'queries, or shown items';
COMMENT ON COLUMN health_spread.n IS 'draws, or impressions that closed';
COMMENT ON COLUMN health_spread.different IS 'how many different items';
COMMENT ON COLUMN health_spread.entropy IS 'in bits: 2^entropy items, all as frequent, would be as spread';
COMMENT ON COLUMN health_spread.gini IS 'among those that came at all: 0 all as often, near 1 few take it all';


CREATE OR REPLACE VIEW health_prior AS
WITH leaning AS (
    SELECT run_date, surface, arm, prior_source, reward,
           prior_strength / nullif(prior_strength + weight, 0) AS lean
    FROM CLUSTER_REWARDS_ALL)
SELECT run_date, surface, arm, prior_source, count(*) AS interests,
       count(*) / sum(count(*)) OVER (PARTITION BY run_date, surface, arm) AS share,
       avg(lean) AS lean, avg(reward) AS mean_reward
FROM leaning GROUP BY run_date, surface, arm, prior_source;
COMMENT ON VIEW health_prior IS 'what rewards lean on: interests by source, and the weight of the prior in their reward';
COMMENT ON COLUMN health_prior.run_date IS 'the night';
COMMENT ON COLUMN health_prior.surface IS 'where';
COMMENT ON COLUMN health_prior.arm IS 'arm of the experiment, empty if none';
COMMENT ON COLUMN health_prior.prior_source IS 'observed, user average or global average';
COMMENT ON COLUMN health_prior.interests IS 'with such a reward';
COMMENT ON COLUMN health_prior.share IS 'of the night''s interests there';
COMMENT ON COLUMN health_prior.mean_reward IS 'their mean reward';
COMMENT ON COLUMN health_prior.lean IS 'k / (k + weight): 1 is the prior alone, 0 the interest''s own record alone';


CREATE OR REPLACE VIEW health_flow AS
WITH before AS (SELECT run_date, kind, cutoff, lag(cutoff) OVER (ORDER BY run_date) AS parent_cutoff FROM nights),
landed AS (
    SELECT i.run_date, sum(i.n)::BIGINT AS landed,
           coalesce(sum(i.n) FILTER (i.last_at < b.parent_cutoff), 0)::BIGINT AS late
    FROM night_inputs AS i JOIN before AS b USING (run_date)
    WHERE i.table_name = 'IMPRESSIONS' GROUP BY ALL),
closed AS (
    SELECT run_date, count(DISTINCT impression_id) AS closed,
           count(DISTINCT impression_id) FILTER (attribution = 'logged') AS logged,
           count(DISTINCT impression_id) FILTER (attribution = 'inferred') AS inferred,
           count(DISTINCT impression_id) FILTER (attribution = 'none') AS unattributed
    FROM OUTCOMES GROUP BY ALL),
refused AS (
    SELECT run_date, count(*) AS refused, count(*) FILTER (reason LIKE 'late%') AS refused_late
    FROM REJECTED WHERE source = 'IMPRESSIONS' AND run_date IS NOT NULL GROUP BY ALL)
SELECT b.run_date, coalesce(landed, 0) AS landed, coalesce(late, 0) AS late,
       coalesce(refused, 0) AS refused, coalesce(refused_late, 0) AS refused_late,
       coalesce(closed, 0) AS closed, coalesce(logged, 0) AS logged, coalesce(inferred, 0) AS inferred,
       coalesce(unattributed, 0) AS unattributed, coalesce(unattributed / nullif(closed, 0), 0) AS unattributed_share,
       coalesce(late / nullif(landed, 0), 0) AS late_share,
       coalesce(r.refused / nullif(landed, 0), 0) AS refused_share
FROM before AS b LEFT JOIN landed USING (run_date) LEFT JOIN closed USING (run_date)
LEFT JOIN refused AS r USING (run_date)
WHERE b.kind <> 'bootstrap';
COMMENT ON VIEW health_flow IS 'impressions by night: how many landed, came late, were refused, closed, and to what they could be attributed';
COMMENT ON COLUMN health_flow.run_date IS 'the night';
COMMENT ON COLUMN health_flow.landed IS 'impressions that the night consumed';
COMMENT ON COLUMN health_flow.refused IS 'impressions that it refused';
COMMENT ON COLUMN health_flow.closed IS 'impressions that it closed';
COMMENT ON COLUMN health_flow.logged IS 'closed ones whose draw the log names';
COMMENT ON COLUMN health_flow.inferred IS 'closed ones that the nearest interest was found for';
COMMENT ON COLUMN health_flow.unattributed_share IS 'of the closed';
COMMENT ON COLUMN health_flow.late_share IS 'of the landed';
COMMENT ON COLUMN health_flow.refused_share IS 'of the landed';
COMMENT ON COLUMN health_flow.late IS 'landed row groups all of whose impressions are older than the night before';
COMMENT ON COLUMN health_flow.refused_late IS 'refused since their window and lateness had ended';
COMMENT ON COLUMN health_flow.unattributed IS 'closed impressions that belong to no draw and no interest';


-- What was predicted is the reward on the night of the draw; where the log names no draw, on the
-- night before the impression.
CREATE OR REPLACE VIEW health_calibration AS
WITH seen AS (
    SELECT o.run_date, o.user_id, o.surface, o.cluster_id, o.impression_id,
           coalesce(q.run_date, (o."at" AT TIME ZONE 'UTC')::DATE - 1) AS night,
           o.examination * o.credit AS w, o.value
    FROM OUTCOMES AS o
    LEFT JOIN (SELECT user_id, draw_id, any_value(run_date) AS run_date FROM QUERIES GROUP BY ALL) AS q
           ON q.user_id = o.user_id AND q.draw_id = o.draw_id
    WHERE o.cluster_id IS NOT NULL AND o.examination * o.credit > 0),
told AS (
    SELECT s.run_date, s.surface, c.arm, s.user_id, s.impression_id, s.w, s.value, c.reward,
           ntile(10) OVER (PARTITION BY s.run_date, s.surface, c.arm
                           ORDER BY c.reward, s.user_id, s.impression_id) AS bin
    FROM seen AS s JOIN CLUSTER_REWARDS_ALL AS c
      ON c.run_date = s.night AND c.user_id = s.user_id AND c.surface = s.surface
         AND c.cluster_id = s.cluster_id),
by_user AS (
    SELECT run_date, surface, arm, bin, user_id, count(DISTINCT impression_id) AS impressions,
           sum(w) AS w, sum(w * value) AS v, sum(w * reward) AS p
    FROM told GROUP BY GROUPING SETS ((run_date, surface, arm, bin, user_id), (run_date, surface, arm, user_id))),
rates AS (
    SELECT run_date, surface, arm, bin, count(*) AS users, sum(impressions)::BIGINT AS impressions,
           sum(p) / sum(w) AS predicted, sum(v) / sum(w) AS came, ratio_error(v, w) AS error
    FROM by_user GROUP BY ALL)
SELECT run_date, surface, arm, bin, users, impressions, predicted, came, came - 1.96 * error AS low,
       came + 1.96 * error AS high, came / nullif(predicted, 0) AS came_to_predicted
FROM rates;
COMMENT ON VIEW health_calibration IS 'predicted reward against what came, by tenths of the predicted reward; bin NULL is all together';
COMMENT ON COLUMN health_calibration.run_date IS 'the night that closed them';
COMMENT ON COLUMN health_calibration.surface IS 'where';
COMMENT ON COLUMN health_calibration.arm IS 'arm of the experiment, empty if none';
COMMENT ON COLUMN health_calibration.users IS 'whose impressions these are';
COMMENT ON COLUMN health_calibration.impressions IS 'that closed';
COMMENT ON COLUMN health_calibration.predicted IS 'mean reward that was promised';
COMMENT ON COLUMN health_calibration.low IS '95 % interval over users';
COMMENT ON COLUMN health_calibration.high IS '95 % interval over users';
COMMENT ON COLUMN health_calibration.came_to_predicted IS '1 where the promise was kept';
COMMENT ON COLUMN health_calibration.bin IS '1: the tenth of the closed impressions whose interests promised least';
COMMENT ON COLUMN health_calibration.came IS 'mean value of the impressions, with a 95 % interval over users';


CREATE OR REPLACE VIEW health_draws AS
SELECT run_date, surface, arm, policy, sum(clusters)::BIGINT AS interests, sum(draws)::BIGINT AS draws,
       min(least_propensity) AS least_propensity, sum(stand_for) / sum(clusters) AS stood_for,
       sqrt(sum(standard_error * standard_error)) / sum(clusters) AS error,
       (sum(stand_for) - sum(clusters)) / nullif(sqrt(sum(standard_error * standard_error)), 0) AS z
FROM draw_check WHERE draws > 0 GROUP BY ALL;
COMMENT ON VIEW health_draws IS 'drawn against promised: the interests that the draws stand for, by their propensities, as a share of those there are; draw_check has it by kind of interest';
COMMENT ON COLUMN health_draws.run_date IS 'the night';
COMMENT ON COLUMN health_draws.surface IS 'where';
COMMENT ON COLUMN health_draws.arm IS 'arm of the experiment, empty if none';
COMMENT ON COLUMN health_draws.policy IS 'name and version';
COMMENT ON COLUMN health_draws.interests IS 'there are';
COMMENT ON COLUMN health_draws.draws IS 'made';
COMMENT ON COLUMN health_draws.least_propensity IS 'of the drawn';
COMMENT ON COLUMN health_draws.error IS 'standard error of stood_for';
COMMENT ON COLUMN health_draws.stood_for IS '1 where draws come as often as promised';
COMMENT ON COLUMN health_draws.z IS 'within some 3 of 0; null where every propensity is 1';

