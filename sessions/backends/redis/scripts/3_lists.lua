-- What reads or deletes many sessions. Each call looks at a bounded number of them.

-- Conditions are arguments from one on: number of keys, then each key, number of values, values.
local function conditions(at)
  local found = {}
  local count = number(at)
  at = at + 1
  for _ = 1, count do
    local accepted = {}
    local values = number(at + 1)
    for i = at + 2, at + 1 + values do accepted[ARGV[i]] = true end
    found[#found + 1] = { 'm' .. ARGV[at], accepted }
    at = at + 2 + values
  end
  return found
end

-- What has expired, of which an entry is left if there is too much for one call: at most this much is deleted in one.
local PURGED = 100

-- Deletes sessions of a user that have expired; returns whether some are left.
local function has_expired(tag)
  -- A server that refuses writes, for want of memory or of replicas, still reads.
  pcall(purge, tag, PURGED)
  return call('ZCOUNT', base(tag) .. 'expiry', '-inf', now()) > 0
end

local function meets(s, wanted)
  for _, condition in ipairs(wanted) do
    local value = call('HGET', s.key, condition[1])
    if not condition[2][value and canonical(value) or 'null'] then return false end
  end
  return true
end

-- tag, first place or '', offset, sessions to look at, limit, '1' for the last messages, conditions
-- Returns the place to continue after, or '', and id, fields and last message of each session.
function ops.list()
  local tag, after, offset, budget, limit, previews = ARGV[3], ARGV[4], ARGV[5], number(6), number(7), ARGV[8]
  local wanted = conditions(9)
  local index = base(tag) .. 'index'
  local from = after == '' and '-' or '(' .. after
  local expired = has_expired(tag)
  -- The offset is among those that have not expired.
  for _ = 1, offset == '0' and 0 or 100 do
    expired = expired and has_expired(tag)
  end
  local found, place, size = { '' }, '', #wanted == 0 and limit or 2 * limit
  while true do
    size = math.min(size, budget)
    local members = call('ZRANGEBYLEX', index, from, '+', 'LIMIT', offset, size)
    for _, member in ipairs(members) do
      place = member
      local s = keys_of(tag, sub(member, 19))
      if (not expired or call('EXISTS', s.key) == 1) and meets(s, wanted) then
        found[#found + 1] = s.id
        found[#found + 1] = call('HGETALL', s.key)
        found[#found + 1] = previews == '1' and call('ZRANGE', s.order, -1, -1)[1] or ''
        limit = limit - 1
        if limit == 0 then return found end
      end
    end
    budget = budget - size
    if #members < size then return found end
    if budget == 0 then
      found[1] = place
      return found
    end
    from, offset, size = '(' .. place, 0, 2 * size
  end
end

-- tag, place to continue after or '', sessions to look at, conditions
function ops.count()
  local tag, after, budget = ARGV[3], ARGV[4], number(5)
  local wanted = conditions(6)
  local index = base(tag) .. 'index'
  local expired = has_expired(tag)
  if #wanted == 0 then
    return { '', call('ZCARD', index) - call('ZCOUNT', base(tag) .. 'expiry', '-inf', now()) }
  end
  local members = call('ZRANGEBYLEX', index, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, budget)
  local count = 0
  for _, member in ipairs(members) do
    local s = keys_of(tag, sub(member, 19))
    if (not expired or call('EXISTS', s.key) == 1) and meets(s, wanted) then count = count + 1 end
  end
  return { #members == budget and members[#members] or '', count }
end

-- tag, place to continue before or '', limit: the place to continue before, or '', and sessions, the first
-- changed first; without fields if one has expired
function ops.export_sessions()
  local tag, before, limit = ARGV[3], ARGV[4], number(5)
  local from = before == '' and '+' or '(' .. before
  local members = call('ZREVRANGEBYLEX', base(tag) .. 'index', from, '-', 'LIMIT', 0, limit)
  local found = { #members == limit and members[limit] or '' }
  for _, member in ipairs(members) do
    found[#found + 1] = sub(member, 19)
    found[#found + 1] = call('HGETALL', keys_of(tag, sub(member, 19)).key)
  end
  return found
end

-- Deletes sessions of index members until there are enough messages for one call; returns how many.
local function drop_all(tag, members, messages)
  local count = 0
  for _, member in ipairs(members) do
    local s = open(tag, sub(member, 19))
    messages = messages - drop(s or keys_of(tag, sub(member, 19)), member)
    if s then count = count + 1 end
    if messages <= 0 then break end
  end
  return count
end

-- tag, how many to keep, limit, messages: how many, or -1 if it has to be called again
function ops.delete_beyond()
  purge(ARGV[3], PURGED)
  if has_expired(ARGV[3]) then return -1 end
  local members = call('ZRANGEBYLEX', base(ARGV[3]) .. 'index', '-', '+', 'LIMIT', ARGV[4], ARGV[5])
  return drop_all(ARGV[3], members, number(6))
end

-- tag, moment, limit, messages, sessions to look at, place to continue before or '', conditions
-- Returns the place to continue before, or '', and how many; or the same place and -1.
function ops.delete_older()
  local tag, cutoff, limit, messages, budget, before = ARGV[3], ARGV[4], number(5), number(6), number(7), ARGV[8]
  purge(tag, PURGED)
  if has_expired(tag) then return { before, -1 } end
  local wanted = conditions(9)
  local least = '(' .. inverse(cutoff) .. '\255'
  local from = before == '' and '+' or '(' .. before
  local chosen, place = {}, ''
  local members = call('ZREVRANGEBYLEX', base(tag) .. 'index', from, least, 'LIMIT', 0, budget)
  for _, member in ipairs(members) do
    if meets(keys_of(tag, sub(member, 19)), wanted) then
      chosen[#chosen + 1] = member
      if #chosen == limit then break end
    end
    place = member
  end
  local count = drop_all(tag, chosen, messages)
  return { count == 0 and #members == budget and place or '', count }
end

-- moment, limit, user to continue after: those who have sessions before the moment, and the last user seen
function ops.users_with_older()
  local least, limit, after = '(' .. inverse(ARGV[3]) .. '\255', number(4), ARGV[5]
  local users = call('ZRANGEBYLEX', P .. ':users', after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, limit)
  local found = { #users == limit and users[#users] or '' }
  for _, tag in ipairs(users) do
    if call('ZREVRANGEBYLEX', base(tag) .. 'index', '+', least, 'LIMIT', 0, 1)[1] then
      found[#found + 1] = tag
    end
  end
  return found
end

-- tag, messages of each session, least place or '', then session id and the place to continue before, or ''
-- Returns id, fields and members of each session that has members.
function ops.scan()
  local tag, limit, least = ARGV[3], number(4), ARGV[5]
  local found = {}
  for i = 6, #ARGV, 2 do
    local s, before = keys_of(tag, ARGV[i]), ARGV[i + 1]
    local members = call(
      'ZREVRANGEBYLEX', s.order, before == '' and '+' or '(' .. before, least == '' and '-' or '(' .. least,
      'LIMIT', 0, limit)
    if #members > 0 then
      found[#found + 1] = s.id
      found[#found + 1] = call('HGETALL', s.key)
      found[#found + 1] = members
    end
  end
  return found
end

-- tag, place to continue after or '', limit: the place to continue after, or '', and ids of sessions
function ops.ids()
  local limit = number(5)
  local from = ARGV[4] == '' and '-' or '(' .. ARGV[4]
  local members = call('ZRANGEBYLEX', base(ARGV[3]) .. 'index', from, '+', 'LIMIT', 0, limit)
  local found = { #members == limit and members[limit] or '' }
  for _, member in ipairs(members) do found[#found + 1] = sub(member, 19) end
  return found
end
